//! name_to_handle_at: refused, rather than handles that are worth nothing after a while.

use std::fs;

use rustix::io::Errno;

use crate::common::{Union, file_handle, refused};

#[test]
fn no_file_handle_is_given_out() {
    let union = Union::over(|b| b.file("lower", "").dir("dir"));
    fs::write(union.at("new"), "").unwrap();
    for path in ["", "lower", "dir", "new"] {
        refused(file_handle(&union.at(path)), Errno::OPNOTSUPP);
    }
    // The disk below has some, so it is not the call that is refused.
    assert!(!file_handle(&union.upper("new")).unwrap().is_empty());
}
