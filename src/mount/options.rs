//! `-o` lists in the manner of mount(8).
//!
//! Layer: edge (`mount`). Text in, [`MountOptions`] out. Only known options pass, each by its own rule,
//! so that no value can smuggle another option into mount(2) or fusermount3.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use nix::mount::MsFlags;

use super::Problem;

/// Who may use the mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// The user who mounts, nobody else: not even root.
    #[default]
    Owner,
    /// The user who mounts, and root (the session refuses the others; the kernel knows no such option).
    OwnerAndRoot,
    /// Everybody, by the permissions of the files.
    Everybody,
}

/// The options of one mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// `allow_other`, `allow_root`.
    pub access: Access,
    /// `ro`, `nosuid`, `nodev`, `noexec`, ... for mount(2). `nosuid,nodev` unless asked otherwise.
    pub flags: MsFlags,
    /// Those of `flags` that were asked for by name, not set by default.
    pub asked: MsFlags,
    /// Whether the kernel checks permissions before it asks.
    pub default_permissions: bool,
    /// What `/proc/mounts` shows as the source; SOURCE itself when absent.
    pub fsname: Option<OsString>,
    /// Largest read in bytes, where it was given.
    pub max_read: Option<u32>,
    /// Whether a mountpoint with something in it is accepted.
    pub nonempty: bool,
}

impl Default for MountOptions {
    fn default() -> MountOptions {
        MountOptions {
            access: Access::Owner,
            flags: MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            asked: MsFlags::empty(),
            default_permissions: false,
            fsname: None,
            max_read: None,
            nonempty: false,
        }
    }
}

/// Options that are one bit of mount(2): the name, the bit, whether the name sets or clears it.
const FLAGS: &[(&str, MsFlags, bool)] = &[
    ("ro", MsFlags::MS_RDONLY, true),
    ("rw", MsFlags::MS_RDONLY, false),
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("nodev", MsFlags::MS_NODEV, true),
    ("dev", MsFlags::MS_NODEV, false),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("atime", MsFlags::MS_NOATIME, false),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("diratime", MsFlags::MS_NODIRATIME, false),
    ("relatime", MsFlags::MS_RELATIME, true),
    ("strictatime", MsFlags::MS_STRICTATIME, true),
    ("sync", MsFlags::MS_SYNCHRONOUS, true),
    ("async", MsFlags::MS_SYNCHRONOUS, false),
    ("dirsync", MsFlags::MS_DIRSYNC, true),
];

impl MountOptions {
    /// Parses the values of all `-o` on a command line, in order; a later option wins.
    ///
    /// # Errors
    /// One sentence naming the option that is unknown or has a bad value.
    pub fn parse<S: AsRef<str>>(lists: &[S]) -> Result<MountOptions, Problem> {
        let mut options = MountOptions::default();
        for list in lists {
            for option in split(list.as_ref()) {
                options.apply(&option)?;
            }
        }
        // Whoever lets others in wants them checked by the files' permissions: the server itself acts
        // with the rights of the user who mounted.
        options.default_permissions |= options.access != Access::Owner;
        Ok(options)
    }

    fn apply(&mut self, option: &str) -> Result<(), Problem> {
        if let Some((_, bit, set)) = FLAGS.iter().find(|(name, ..)| *name == option) {
            self.flags.set(*bit, *set);
            self.asked.set(*bit, *set);
            return Ok(());
        }
        match option.split_once('=') {
            None => self.apply_word(option),
            Some((name, value)) => self.apply_value(name, value, option),
        }
    }

    fn apply_word(&mut self, option: &str) -> Result<(), Problem> {
        match option {
            "" | "defaults" => {}
            "allow_other" => self.access = Access::Everybody,
            "allow_root" => self.access = Access::OwnerAndRoot,
            "default_permissions" => self.default_permissions = true,
            "nonempty" => self.nonempty = true,
            "fsname" | "subtype" | "max_read" => {
                return Err(Problem::new(format!(
                    "-o {option} needs a value: {option}=..."
                )));
            }
            _ => return Err(unknown(option)),
        }
        Ok(())
    }

    fn apply_value(&mut self, name: &str, value: &str, whole: &str) -> Result<(), Problem> {
        match (name, value) {
            ("fsname", _) if value.is_empty() || value.contains(['\n', '\0']) => {
                Err(Problem::new("-o fsname= needs a name on one line"))
            }
            ("fsname", _) => {
                self.fsname = Some(OsString::from(value));
                Ok(())
            }
            ("subtype", "iolens") => Ok(()),
            ("subtype", _) => Err(Problem::new(format!(
                "-o {whole}: the subtype of a mount of iolens is always iolens, because `iolens \
                 unmount` knows its mounts by it; leave the option out"
            ))),
            ("max_read", _) => match value.parse() {
                Ok(bytes) if bytes >= 4096 => {
                    self.max_read = Some(bytes);
                    Ok(())
                }
                _ => Err(Problem::new(format!(
                    "-o {whole}: max_read is a number of bytes, 4096 or more"
                ))),
            },
            _ => Err(unknown(whole)),
        }
    }

    /// What `/proc/mounts` is to show as the source.
    #[must_use]
    pub fn fsname_or<'a>(&'a self, source: &'a Path) -> &'a OsStr {
        self.fsname.as_deref().unwrap_or(source.as_os_str())
    }
}

fn unknown(option: &str) -> Problem {
    Problem::new(format!(
        "unknown mount option '{option}': known are allow_other, allow_root, default_permissions, \
         ro, rw, [no]suid, [no]dev, [no]exec, [no]atime, relatime, sync, fsname=, max_read=, nonempty"
    ))
}

/// Splits at commas; `\,` and `\\` stand for the characters themselves, as in libfuse.
fn split(list: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        if character == ',' {
            parts.push(String::new());
            continue;
        }
        let literal = if character == '\\' {
            characters.next()
        } else {
            None
        };
        if let Some(last) = parts.last_mut() {
            last.push(literal.unwrap_or(character));
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_options_a_mount_is_private_and_honours_no_set_id_or_device() {
        let options = MountOptions::parse::<&str>(&[]).unwrap();
        assert_eq!(options.access, Access::Owner);
        assert_eq!(options.flags, MsFlags::MS_NOSUID | MsFlags::MS_NODEV);
        assert!(!options.default_permissions);
    }

    #[test]
    fn lists_are_read_in_order_and_the_later_option_wins() {
        let options = MountOptions::parse(&["ro,suid", "rw,dev,noexec,allow_other"]).unwrap();
        assert_eq!(options.flags, MsFlags::MS_NOEXEC);
        assert_eq!(options.access, Access::Everybody);
        assert!(
            options.default_permissions,
            "others are checked by the kernel"
        );
    }

    #[test]
    fn a_comma_in_fsname_does_not_inject_an_option() {
        let error = MountOptions::parse(&["fsname=a,user_id=0"]).unwrap_err();
        assert!(error.to_string().contains("'user_id=0'"), "{error}");
        let options = MountOptions::parse(&["fsname=a\\,allow_other"]).unwrap();
        assert_eq!(options.fsname.unwrap(), "a,allow_other");
        assert_eq!(options.access, Access::Owner);
    }

    #[test]
    fn what_is_unknown_or_malformed_is_named() {
        for bad in [
            "allowother",
            "fd=3",
            "max_read=big",
            "max_read=1",
            "fsname=",
            "subtype=x",
        ] {
            let error = MountOptions::parse(&[bad]).unwrap_err();
            assert!(
                error.to_string().contains(bad.split('=').next().unwrap()),
                "{error}"
            );
        }
    }
}
