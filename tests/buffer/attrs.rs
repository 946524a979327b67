//! Modes and owners that change while data is dirty: case 15.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};

use crate::process;
use crate::view::{alone, each, pattern, rows};

#[test]
fn case_15_data_lands_after_chmod_and_chown_took_the_right_to_write_away() {
    each(|v| {
        for (name, mode) in [("readable", 0o444), ("closed", 0o000)] {
            let data = pattern(20_000, mode.into());
            let f = v.create(name);
            f.write_all_at(&data[..10_000], 0).unwrap();
            fs::set_permissions(v.path(name), Permissions::from_mode(mode)).unwrap();
            chown(v.path(name), Some(54_321), Some(54_321)).unwrap();
            f.write_all_at(&data[10_000..], 10_000).unwrap();
            v.shows(name, &data);
            let st = v.stat(name);
            assert_eq!((st.mode() & 0o7777, st.uid()), (mode, 54_321));
            drop(f);
            v.shows(name, &data);
            v.holds_as_closed(name, &data);
            let st = fs::metadata(v.below(name)).unwrap();
            assert_eq!((st.mode() & 0o7777, st.uid()), (mode, 54_321));
        }
    });
}

#[test]
fn case_15_data_of_a_write_only_creator_that_is_gone_can_be_read_and_lands() {
    each(|v| {
        let data = pattern(10_000, 1);
        let child = crate::call::fork(|| {
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
            let f = v.open("f", flags);
            f.write_at(&data, 0).ok() == Some(10_000)
        });
        assert_eq!(child.wait(), 0);
        v.shows("f", &data);
        let reader = v.open("f", libc::O_RDONLY);
        reader.sync_all().unwrap();
        v.holds("f", &data);
    });
}

#[test]
fn case_15_an_ordinary_users_data_lands_under_a_mode_of_nothing() {
    const USER: &[&str] = &["--reuid=1234", "--regid=1234", "--clear-groups"];
    const SCRIPT: &str = r#"
        for mode in 0444 0200 0000; do
            "$IOLENS" run $ROW -- sh -ec "exec 3> f; echo one >&3; chmod $mode f; echo two >&3" 2>/dev/null
            said=$("$IOLENS" audit) || echo "audit of $mode: $said"
            chmod 600 f
            tr '\n' ' ' < f
            rm f
        done
    "#;
    let _alone = alone();
    for row in rows() {
        let scratch = process::Scratch::new();
        fs::set_permissions(&scratch.source, Permissions::from_mode(0o777)).unwrap();
        let script = format!("ROW='{}'\n{SCRIPT}", row.join(" "));
        let outcome = scratch.as_user(USER, &script);
        let found = (outcome.code, &*outcome.stdout);
        assert_eq!(
            found,
            (0, "one two one two one two "),
            "with {row:?}: {outcome:?}"
        );
    }
}
