//! Mounting as a plain user through the set-uid program `fusermount3`.
//!
//! Layer: edge (`mount`). The program mounts, then passes the descriptor over a socket whose number it
//! finds in `_FUSE_COMMFD` (libfuse util/fusermount.c). Call this while the process has one thread: for
//! a moment the socket is inheritable.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::mount::MsFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::options::{Access, MountOptions};
use super::{Detach, Problem};
use crate::error::Errno;
use crate::sys::process::receive;

const PROGRAM: &str = "fusermount3";

/// Mounts on `target` and returns the descriptor of the connection.
///
/// # Errors
/// One sentence: no fusermount3, an option that it refuses, or what it said itself.
pub fn mount(source: &Path, target: &Path, options: &MountOptions) -> Result<OwnedFd, Problem> {
    let failed = |errno: nix::errno::Errno| {
        Problem::new(format!("cannot talk to {PROGRAM}: {}", Errno::from(errno)))
    };
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::empty(),
    )
    .map_err(failed)?;
    nix::fcntl::fcntl(
        &ours,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )
    .map_err(failed)?;
    let mut child = spawn(
        Command::new(PROGRAM)
            .arg("-o")
            .arg(option_list(source, options))
            .arg("--")
            .arg(target)
            .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string()),
    )?;
    drop(theirs);
    let mut buffer = [0; 16];
    let received = receive(ours.as_fd(), &mut buffer);
    let said = finish(&mut child)?;
    match received {
        Ok((_, Some(device))) => Ok(device),
        _ => Err(explain(target, options, &said)),
    }
}

/// Unmounts what this user has mounted on `target`. `Ok(false)` means that it is busy.
///
/// # Errors
/// What fusermount3 said.
pub fn unmount(target: &Path, how: Detach) -> Result<bool, Problem> {
    let mut command = Command::new(PROGRAM);
    command.arg("-u");
    if how == Detach::Lazily {
        command.arg("-z");
    }
    let mut child = spawn(command.arg("--").arg(target))?;
    let said = finish(&mut child)?;
    let status = child
        .wait()
        .map_err(|error| Problem::at("cannot wait for", Path::new(PROGRAM), error))?;
    if status.success() {
        return Ok(true);
    }
    if said.to_lowercase().contains("busy") {
        return Ok(false);
    }
    Err(Problem::new(format!(
        "cannot unmount {}: {said}",
        target.display()
    )))
}

fn spawn(command: &mut Command) -> Result<Child, Problem> {
    // Its messages are matched, so they must come in one language.
    let command = command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command.stderr(Stdio::piped()).spawn().map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT) => Problem::new(format!(
            "{PROGRAM} is not installed (ENOENT), and without it only root may mount: install the \
             package fuse3, or use `iolens run`, which needs no {PROGRAM}"
        )),
        _ => Problem::at("cannot run", Path::new(PROGRAM), error),
    })
}

/// Waits for the program and returns what it complained of, on one line.
fn finish(child: &mut Child) -> Result<String, Problem> {
    let mut said = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        // A message that cannot be read is an empty one: the exit status tells the rest.
        let _ = stderr.read_to_end(&mut said);
    }
    child
        .wait()
        .map_err(|error| Problem::at("cannot wait for", Path::new(PROGRAM), error))?;
    let text = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    Ok(lines.join("; "))
}

fn explain(target: &Path, options: &MountOptions, said: &str) -> Problem {
    if options.access != Access::Owner && said.contains("user_allow_other") {
        return Problem::new(
            "allow_other is not permitted to plain users here (EPERM): put the line \
             user_allow_other into /etc/fuse.conf, or leave the option out",
        );
    }
    if said.contains("/dev/fuse") || said.contains("device not found") {
        return Problem::new(format!(
            "{PROGRAM}: {said}; load the kernel module: modprobe fuse"
        ));
    }
    let said = if said.is_empty() {
        "it sent no descriptor and gave no reason"
    } else {
        said
    };
    Problem::new(format!("cannot mount on {}: {said}", target.display()))
}

fn option_list(source: &Path, options: &MountOptions) -> OsString {
    let mut list = b"subtype=iolens,fsname=".to_vec();
    list.extend(escape(options.fsname_or(source)));
    let flag = |bit, set: &'static str, clear: &'static str| {
        if options.flags.contains(bit) {
            set
        } else {
            clear
        }
    };
    let mut words = vec![
        flag(MsFlags::MS_RDONLY, "ro", "rw"),
        flag(MsFlags::MS_NOSUID, "nosuid", "suid"),
        flag(MsFlags::MS_NODEV, "nodev", "dev"),
        flag(MsFlags::MS_NOEXEC, "noexec", "exec"),
        flag(MsFlags::MS_NOATIME, "noatime", "atime"),
    ];
    if options.access != Access::Owner {
        words.push("allow_other");
    }
    if options.default_permissions {
        words.push("default_permissions");
    }
    for word in words {
        list.push(b',');
        list.extend(word.as_bytes());
    }
    if let Some(bytes) = options.max_read {
        list.extend(format!(",max_read={bytes}").into_bytes());
    }
    OsString::from_vec(list)
}

/// fusermount3 splits at commas too, and knows the same escape (util/fusermount.c do_mount()).
fn escape(name: &OsStr) -> Vec<u8> {
    let mut escaped = Vec::new();
    for &byte in name.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_name_stays_in_the_name() {
        let list = option_list(Path::new("/a,allow_other"), &MountOptions::default());
        let list = list.into_string().unwrap();
        assert!(
            list.starts_with("subtype=iolens,fsname=/a\\,allow_other,rw,nosuid,nodev"),
            "{list}"
        );
    }
}
