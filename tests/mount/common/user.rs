//! Who acts: root, or one of two ordinary users.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Once;
use std::thread;

use rustix::fs::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// An ordinary user, with a group of the same number.
pub(crate) const ALICE: u32 = 54_321;
/// Another one.
pub(crate) const BOB: u32 = 54_322;

/// Whether the tests run with all of root's rights (root of a user namespace has not got them).
pub(crate) fn is_root() -> bool {
    let whole_range = "4294967295";
    rustix::process::geteuid().is_root()
        && fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.contains(whole_range))
}

/// Acts as an ordinary user: the ids change for one thread only, and its capabilities go.
pub(crate) fn as_user<T: Send>(id: u32, act: impl FnOnce() -> T + Send) -> T {
    as_member(id, &[], act)
}

/// The same as a member of more groups than the user's own.
pub(crate) fn as_member<T: Send>(id: u32, groups: &[u32], act: impl FnOnce() -> T + Send) -> T {
    let groups: Vec<_> = groups.iter().copied().map(Gid::from_raw).collect();
    thread::scope(|scope| {
        let acting = scope.spawn(|| {
            let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
            set_thread_groups(&groups).unwrap();
            set_thread_res_gid(gid, gid, gid).unwrap();
            set_thread_res_uid(uid, uid, uid).unwrap();
            act()
        });
        acting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Mounting as an ordinary user needs a /dev/fuse as udev sets it up: 0666.
pub(crate) fn open_dev_fuse_to_everybody() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let device = fs::metadata("/dev/fuse").expect("/dev/fuse is needed");
        if device.mode() & 0o666 != 0o666 {
            super::say("/dev/fuse is not open to everybody: chmod 0666 /dev/fuse, as udev does");
            fs::set_permissions("/dev/fuse", fs::Permissions::from_mode(0o666)).unwrap();
        }
    });
}
