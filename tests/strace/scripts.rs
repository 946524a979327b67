//! Python programs: what an ordinary program's library makes of its files.

use std::process::Command;

const SCRIPTS: &[&str] = &[
    // Buffered files.
    "
with open('py.text', 'w') as f:
    for i in range(3000): print(i, 'line', file=f)
    f.flush(); f.tell()
with open('py.text') as f:
    f.readline(); f.seek(5000); f.read(100); list(f)
with open('py.bytes', 'w+b', buffering=777) as f:
    f.write(b'x' * 500); f.write(b'y' * 500); f.seek(100); f.write(b'z'); f.seek(0); f.read()
    f.truncate(50); f.seek(0, 2); f.tell()
with open('py.text', 'ab') as f:
    f.write(b'tail'); f.flush(); f.tell()
",
    // The calls themselves.
    "
import os
f = os.open('py.os', os.O_RDWR | os.O_CREAT | os.O_TRUNC)
os.write(f, bytes(10000)); os.pwrite(f, b'abc', 5); os.lseek(f, -5, os.SEEK_END); os.read(f, 100)
os.writev(f, [b'a', b'', b'bcd']); os.lseek(f, 0, 0); os.readv(f, [bytearray(10), bytearray(5000)])
os.preadv(f, [bytearray(100)], 50); os.pwritev(f, [b'x' * 5, b'y'], 9000)
os.fsync(f); os.fdatasync(f); os.ftruncate(f, 700); os.posix_fallocate(f, 0, 9000)
g = os.dup(f); os.dup2(f, 1500 if False else 200); os.set_inheritable(g, True)
os.copy_file_range(f, g, 50, 0, 5000); os.sendfile(g, f, 0, 100)
os.close(f); os.write(200, b'still'); os.truncate('py.os', 100)
os.closerange(150, 250)
try: os.read(f, 1)
except OSError: pass
try: os.open('py.none', os.O_RDONLY)
except OSError: pass
",
    // Children.
    "
import os, subprocess
f = open('py.child', 'w+b', buffering=0)
f.write(b'parent')
f.write(subprocess.run(['cat'], stdin=open('py.child'), stdout=subprocess.PIPE, check=True).stdout)
subprocess.run(['sh', '-c', 'echo shell; echo more >> py.child; cat py.child >py.copy'], stdout=f, check=True)
os.lseek(f.fileno(), 0, 1)
if os.fork() == 0:
    f.write(b'child')
    os._exit(0)
os.wait()
f.write(b'after')
os.execvp('sh', ['sh', '-c', 'exec 7<py.child; read line <&7; echo $line > py.out'])
",
    // Threads, each with a file of its own; a mapping; an archive.
    "
import mmap, threading, zipfile
def work(n):
    with open(f'py.thread{n}', 'w+b') as f:
        for i in range(20): f.write(bytes(i * 300))
        f.seek(1000); f.read(3000)
threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
for t in threads: t.start()
for t in threads: t.join()
with open('py.thread0', 'r+b') as f, mmap.mmap(f.fileno(), 0) as m:
    m[5000:5003] = b'abc'; m.flush(); m.find(b'c')
with zipfile.ZipFile('py.zip', 'w') as z:
    for n in range(3): z.write(f'py.thread{n}')
with zipfile.ZipFile('py.zip') as z: z.read('py.thread1')
",
];

/// Runs one of them.
pub(crate) fn run(seed: u64) {
    // Not where space runs out.
    if super::is_small(seed) {
        return;
    }
    let count = SCRIPTS.len() as u64;
    let script = SCRIPTS[usize::try_from(seed % count).unwrap()];
    // Not one of a version manager, which starts many programs first.
    let usual = "/usr/bin/python3";
    let python = if std::path::Path::new(usual).exists() {
        usual
    } else {
        "python3"
    };
    let status = Command::new(python)
        .args(["-I", "-S", "-c", script])
        .status();
    assert!(
        status.unwrap().success(),
        "the Python script of seed {seed}"
    );
}
