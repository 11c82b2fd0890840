//! A file mapped into memory: with `raw`, the only place of the tests with `unsafe`.

use std::fs::File;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

/// A mapping of a file's first bytes.
pub(crate) struct Mapping {
    start: *mut std::ffi::c_void,
    len: usize,
}

/// What a mapping may do, and who sees its stores.
type Kind = (ProtFlags, MapFlags);

#[expect(unsafe_code, reason = "memory that a file backs cannot be had otherwise")]
impl Mapping {
    pub(crate) const READ: Kind = (ProtFlags::READ, MapFlags::SHARED);
    pub(crate) const SHARED: Kind = (ProtFlags::READ.union(ProtFlags::WRITE), MapFlags::SHARED);
    pub(crate) const PRIVATE: Kind = (ProtFlags::READ.union(ProtFlags::WRITE), MapFlags::PRIVATE);

    #[track_caller]
    pub(crate) fn of(file: &File, len: usize, (protection, flags): Kind) -> Self {
        // SAFETY: the kernel chooses a free place, and only this value knows it.
        let start = unsafe { mmap(std::ptr::null_mut(), len, protection, flags, file, 0) };
        Self { start: start.unwrap(), len }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A copy of the bytes as they are now.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let start = self.start.cast::<u8>();
        // Volatile, because writes to the file change the memory behind the compiler's back.
        // SAFETY: the mapping is readable and `len` bytes long.
        (0..self.len).map(|at| unsafe { start.add(at).read_volatile() }).collect()
    }

    /// Stores into a mapping that may be written.
    pub(crate) fn store(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        for (at, byte) in bytes.iter().enumerate() {
            // SAFETY: within the mapping, as just checked.
            unsafe { self.start.cast::<u8>().add(offset + at).write_volatile(*byte) };
        }
    }

    /// msync: what was stored is in the file.
    pub(crate) fn sync(&self) {
        // SAFETY: start and length are those of the mapping.
        unsafe { msync(self.start, self.len, MsyncFlags::SYNC) }.unwrap();
    }
}

#[expect(unsafe_code, reason = "what was mapped must be unmapped")]
impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the memory any more.
        unsafe { munmap(self.start, self.len) }.expect("our own mapping");
    }
}
