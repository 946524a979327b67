//! Set-id bits and capabilities of dirty files: case 16.

use std::ffi::CString;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;

use crate::call::fork;
use crate::view::{View, each_then, pattern};

/// A user who owns nothing.
const STRANGER: u32 = 54_321;
const OPTIONS: &[&str] = &["-o", "allow_other,default_permissions,suid,dev"];

/// Runs `f` as a stranger without capabilities; it says whether all went well.
fn stranger(f: impl FnOnce() -> bool) {
    let child = fork(|| {
        let become_stranger = |id: u32| {
            // SAFETY: take numbers and an empty list; the process is of one thread.
            unsafe {
                libc::syscall(libc::SYS_setgroups, 0, 0) == 0
                    && libc::syscall(libc::SYS_setresgid, id, id, id) == 0
                    && libc::syscall(libc::SYS_setresuid, id, id, id) == 0
            }
        };
        become_stranger(STRANGER) && f()
    });
    assert_eq!(child.wait(), 0);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(v: &View, name: &str, mode: u32) {
    fs::set_permissions(v.path(name), Permissions::from_mode(mode)).unwrap();
}

/// A file of root's, all set-id bits, which everybody may write.
fn set_id_file(v: &View, name: &str) {
    v.given(name, &pattern(10_000, 1));
    set_mode(v, name, 0o6777);
}

fn each_for_strangers(body: impl Fn(&View) + Sync) {
    each_then(OPTIONS, body, |_, _| {});
}

#[test]
fn case_16_set_id_bits_go_at_a_strangers_first_write_and_do_not_come_back() {
    each_for_strangers(|v| {
        set_id_file(v, "f");
        stranger(|| {
            let f = v.open("f", libc::O_RDWR);
            let before = f.metadata().map(|st| st.mode() & 0o7777).ok();
            let wrote = f.write_at(b"x", 0).ok() == Some(1);
            let dirty = f.metadata().map(|st| st.mode() & 0o7777).ok();
            let synced = f.sync_all().is_ok();
            (before, wrote, dirty, synced) == (Some(0o6777), true, Some(0o777), true)
        });
        assert_eq!((mode(&v.path("f")), mode(&v.below("f"))), (0o777, 0o777));
    });
}

#[test]
fn case_16_set_id_bits_that_were_given_after_the_write_survive_its_writeback() {
    each_for_strangers(|v| {
        set_id_file(v, "f");
        let f = v.open("f", libc::O_RDWR);
        stranger(|| {
            let f = v.open("f", libc::O_RDWR);
            let wrote = f.write_at(b"x", 0).ok() == Some(1);
            // What this process closes is written back, but where close keeps it.
            wrote
        });
        f.write_all_at(b"yy", 1).unwrap();
        set_mode(v, "f", 0o6755);
        f.sync_all().unwrap();
        assert_eq!((mode(&v.path("f")), mode(&v.below("f"))), (0o6755, 0o6755));
        f.write_all_at(b"zz", 3).unwrap();
        drop(f);
        assert_eq!(mode(&v.path("f")), 0o6755, "after root's write and close");
        let data = [b"xyyzz", &pattern(10_000, 1)[5..]].concat();
        v.shows("f", &data);
        v.holds_as_closed("f", &data);
    });
}

#[test]
fn case_16_truncate_o_trunc_and_fallocate_take_set_id_bits_of_dirty_files_away() {
    each_for_strangers(|v| {
        let names = ["cut", "emptied", "allocated"];
        let held = names.map(|name| {
            set_id_file(v, name);
            let f = v.open(name, libc::O_RDWR);
            f.write_all_at(b"dirty", 20_000).unwrap();
            assert_eq!(mode(&v.path(name)), 0o6777, "root's own write");
            f
        });
        stranger(|| {
            let cut = v.open("cut", libc::O_RDWR).set_len(3).is_ok();
            drop(v.open("emptied", libc::O_WRONLY | libc::O_TRUNC));
            let f = v.open("allocated", libc::O_RDWR);
            cut && crate::call::fallocate(&f, 0, 0, 100).is_ok()
        });
        let look = || names.map(|name| mode(&v.path(name)));
        assert_eq!(look(), [0o777; 3]);
        held.iter().for_each(|f| f.sync_all().unwrap());
        drop(held);
        assert_eq!(look(), [0o777; 3]);
        assert_eq!(names.map(|name| mode(&v.below(name))), [0o777; 3]);
    });
}

#[test]
fn case_16_capabilities_go_with_the_first_write_and_do_not_come_back() {
    // struct vfs_cap_data, revision 2: cap_net_raw permitted.
    const CAPABILITY: [u32; 5] = [0x0200_0000, 1 << 13, 0, 0, 0];
    const NAME: &std::ffi::CStr = c"security.capability";
    let size = |path: &Path| {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: asks for the size only; both strings live.
        let size = unsafe { libc::getxattr(path.as_ptr(), NAME.as_ptr(), std::ptr::null_mut(), 0) };
        Errno::result(size)
    };
    each_for_strangers(|v| {
        set_id_file(v, "f");
        let path = CString::new(v.path("f").as_os_str().as_bytes()).unwrap();
        // SAFETY: 20 bytes of a live array; both strings live.
        let set = unsafe {
            let value = CAPABILITY.as_ptr().cast();
            libc::setxattr(path.as_ptr(), NAME.as_ptr(), value, 20, 0)
        };
        Errno::result(set).unwrap();
        assert_eq!(size(&v.path("f")), Ok(20));
        let f = v.open("f", libc::O_RDWR);
        f.write_all_at(b"x", 0).unwrap();
        assert_eq!(size(&v.path("f")), Err(Errno::ENODATA), "while dirty");
        f.sync_all().unwrap();
        drop(f);
        assert_eq!(size(&v.path("f")), Err(Errno::ENODATA));
        assert_eq!(size(&v.below("f")), Err(Errno::ENODATA));
    });
}
