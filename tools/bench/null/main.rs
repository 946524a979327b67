//! A filesystem that answers at once and does nothing: the floor that any FUSE server stands on. It keeps names and sizes of
//! files in one directory, forgets what is written, and reads zeros.
//!
//! usage: null MOUNTPOINT [--transport dev|uring] [--threads N] [--spin US] [--request-kib N]
//!        --threads   that read /dev/fuse, 3 without
//!        --spin      so long, in us, a thread asks for the next request before it sleeps, 0 without
//!        --request-kib   data that one request carries at most, 1024 without; for more, see fs.fuse.max_pages_limit
//!
//! Root only. Serves until it is unmounted.

mod dev;
mod files;
mod ring;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use fuser::{Config, Filesystem, InitFlags, KernelConfig, Request, Session, SessionACL};

/// What only shakes hands.
struct Hand {
    rings: bool,
    request_bytes: usize,
}

impl Filesystem for Hand {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let refused = |_| io::Error::other("the kernel does not take what is asked for");
        config
            .add_capabilities(InitFlags::FUSE_ASYNC_DIO)
            .map_err(refused)?;
        if self.rings {
            let rings = InitFlags::FUSE_OVER_IO_URING;
            config.add_capabilities(rings).map_err(refused)?;
        }
        config
            .set_max_write(u32::try_from(self.request_bytes).expect("it is small"))
            .map_err(|_| io::Error::other("the kernel does not take the size of requests"))?;
        Ok(())
    }
}

struct Arguments {
    mountpoint: String,
    rings: bool,
    threads: usize,
    spin_us: u64,
    request_bytes: usize,
}

fn arguments() -> Option<Arguments> {
    let mut found = Arguments {
        mountpoint: String::new(),
        rings: false,
        threads: 3,
        spin_us: 0,
        request_bytes: 1 << 20,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--transport" => found.rings = words.next()? == "uring",
            "--threads" => found.threads = words.next()?.parse().ok()?,
            "--request-kib" => found.request_bytes = words.next()?.parse::<usize>().ok()? << 10,
            "--spin" => found.spin_us = words.next()?.parse().ok()?,
            _ => found.mountpoint = word,
        }
    }
    (!found.mountpoint.is_empty()).then_some(found)
}

/// Mounts with mount(2): no helper, so root only.
fn mount(mountpoint: &str) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let device = File::options().read(true).write(true).open("/dev/fuse")?;
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
        device.as_raw_fd()
    );
    nix::mount::mount(
        Some("null"),
        mountpoint,
        Some("fuse.null"),
        nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV,
        Some(data.as_str()),
    )?;
    Ok(device.into())
}

fn serve(arguments: &Arguments) -> io::Result<()> {
    let queues = if arguments.rings {
        ring::open(arguments.request_bytes)?
    } else {
        Vec::new()
    };
    let device = mount(&arguments.mountpoint)?;
    let kept = device.try_clone()?;
    let hand = Hand {
        rings: arguments.rings,
        request_bytes: arguments.request_bytes,
    };
    // What asks is served from here on; the session is over.
    let session = Session::from_fd(hand, device, SessionACL::All, Config::default())?;
    let files = Arc::new(files::Files::default());
    let device = Arc::new(kept);
    let rings = ring::serve(queues, &device, &files);
    let threads = if arguments.rings {
        1
    } else {
        arguments.threads
    };
    let how = (arguments.request_bytes, arguments.spin_us);
    dev::serve(&device, &files, threads, how)?;
    for thread in rings {
        thread.join().expect("no thread panics");
    }
    drop(session);
    Ok(())
}

fn main() {
    let Some(arguments) = arguments() else {
        eprintln!("usage: null MOUNTPOINT [--transport dev|uring] [--threads N] [--spin US]");
        std::process::exit(2);
    };
    if let Err(error) = serve(&arguments) {
        eprintln!("null: {error}");
        std::process::exit(1);
    }
}
