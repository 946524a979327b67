//! The private namespaces of `iolens run`.
//!
//! Layer: edge (`mount`). Root takes a mount namespace; a plain user takes a user namespace as well, in
//! which only the own user and group are mapped, to themselves: the program sees the uid that it has.
//! The process must have one thread (unshare(2), CLONE_NEWUSER).

use std::fs;
use std::path::Path;

use nix::errno::Errno as NixErrno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use super::Problem;
use crate::error::Errno;

/// In whose name the namespace was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// Root's: a mount namespace alone.
    Root,
    /// A plain user's: a user namespace too.
    User,
}

/// Who enters: by the effective uid.
#[must_use]
pub fn privilege() -> Privilege {
    if geteuid().is_root() {
        Privilege::Root
    } else {
        Privilege::User
    }
}

/// Moves this process into namespaces of its own, out of which no mount spreads.
///
/// # Errors
/// One sentence naming what forbids it and what to change.
pub fn enter() -> Result<Privilege, Problem> {
    let who = privilege();
    match who {
        Privilege::Root => unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| {
            Problem::new(format!(
                "cannot make a mount namespace: {}; root here lacks CAP_SYS_ADMIN (a container?): give \
                 it that capability, or run as a plain user",
                Errno::from(errno)
            ))
        })?,
        Privilege::User => {
            // Asked before: afterwards they are the overflow ids until the maps are written.
            let (uid, gid) = (geteuid(), getegid());
            unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(refused)?;
            // A gid map may only be written by an unprivileged user once setgroups is denied.
            write("/proc/self/setgroups", "deny")?;
            write("/proc/self/uid_map", &format!("{uid} {uid} 1\n"))?;
            write("/proc/self/gid_map", &format!("{gid} {gid} 1\n"))?;
        }
    }
    let none = None::<&str>;
    // Slave, not private: what the machine mounts later still becomes visible to the program.
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).map_err(|errno| {
        Problem::new(format!(
            "cannot keep mounts to ourselves (MS_SLAVE on /): {}",
            Errno::from(errno)
        ))
    })?;
    Ok(who)
}

fn write(path: &str, text: &str) -> Result<(), Problem> {
    fs::write(path, text).map_err(|error| {
        // AppArmor of Ubuntu 24.04 lets the namespace be made, without any capability inside.
        match restriction() {
            Some(advice) => Problem::new(format!(
                "user namespaces are restricted here ({path}: {}): {advice}",
                Errno::from(error)
            )),
            None => Problem::at("cannot write", Path::new(path), error),
        }
    })
}

fn refused(errno: NixErrno) -> Problem {
    let advice = restriction().unwrap_or_else(|| {
        match errno {
            NixErrno::EPERM => {
                "a container's seccomp profile or a changed root directory (chroot) forbids it; use \
                 `iolens mount`, or run as root"
            }
            NixErrno::ENOSPC | NixErrno::EUSERS => {
                "the limit of namespaces is reached; raise it: sysctl user.max_user_namespaces=15000"
            }
            _ => "use `iolens mount`, or run as root",
        }
        .to_owned()
    });
    Problem::new(format!(
        "user namespaces are not permitted here ({}): {advice}",
        Errno::from(errno).name()
    ))
}

/// The system setting that forbids user namespaces, as advice how to change it.
fn restriction() -> Option<String> {
    restriction_in(Path::new("/proc/sys"))
}

fn restriction_in(sysctls: &Path) -> Option<String> {
    let settings = [
        (
            "user/max_user_namespaces",
            "0",
            "user.max_user_namespaces=15000",
        ),
        (
            "kernel/unprivileged_userns_clone",
            "0",
            "kernel.unprivileged_userns_clone=1",
        ),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ];
    let is = |path: &str, value: &str| {
        fs::read_to_string(sysctls.join(path)).is_ok_and(|text| text.trim() == value)
    };
    let (_, _, setting) = settings.iter().find(|(path, value, _)| is(path, value))?;
    Some(format!(
        "permit them as root with: sysctl {setting}; or run iolens as root"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_that_forbids_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["user", "kernel"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        let with = |path: &str, value: &str| {
            let path = dir.path().join(path);
            fs::write(&path, value).unwrap();
            let advice = restriction_in(dir.path());
            fs::remove_file(path).unwrap();
            advice
        };
        assert_eq!(with("user/max_user_namespaces", "96365\n"), None);
        for (path, value, word) in [
            ("user/max_user_namespaces", "0\n", "sysctl user.max"),
            ("kernel/unprivileged_userns_clone", "0\n", "_clone=1"),
            (
                "kernel/apparmor_restrict_unprivileged_userns",
                "1\n",
                "apparmor",
            ),
        ] {
            let advice = with(path, value).unwrap();
            assert!(advice.contains(word), "{advice}");
        }
    }
}
