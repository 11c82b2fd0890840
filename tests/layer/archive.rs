//! Writes tar archives in which anything can be said, also what no tar would say.

/// A header block, field by field.
#[derive(Clone)]
pub(crate) struct Header([u8; 512]);

const NAME: usize = 0;
const MODE: usize = 100;
const UID: usize = 108;
const GID: usize = 116;
const SIZE: usize = 124;
const MTIME: usize = 136;
const CHECKSUM: usize = 148;
const TYPE: usize = 156;
const LINK: usize = 157;
const MAGIC: usize = 257;
const MAJOR: usize = 329;
const MINOR: usize = 337;

impl Header {
    /// A ustar header; a name that is too long is cut.
    pub(crate) fn new(kind: u8, name: &[u8]) -> Self {
        let mut header = Self([0; 512]);
        header.0[TYPE] = kind;
        header.put(MAGIC, b"ustar\x0000");
        header.put(NAME, &name[..name.len().min(100)]);
        header.octal(MODE, 8, if kind == b'5' { 0o755 } else { 0o644 });
        for (at, length) in [(UID, 8), (GID, 8), (SIZE, 12), (MTIME, 12), (MAJOR, 8), (MINOR, 8)] {
            header.octal(at, length, 0);
        }
        header
    }

    /// With GNU tar's magic instead.
    pub(crate) fn gnu(kind: u8, name: &[u8]) -> Self {
        let mut header = Self::new(kind, name);
        header.put(MAGIC, b"ustar  \0");
        header
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn octal(&mut self, at: usize, length: usize, number: u64) {
        let digits = format!("{number:0width$o}\0", width = length - 1);
        self.put(at, digits.as_bytes());
    }

    /// Any bytes anywhere.
    pub(crate) fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.put(at, bytes);
        self
    }

    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.octal(MODE, 8, mode.into());
        self
    }

    pub(crate) fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.octal(UID, 8, uid.into());
        self.octal(GID, 8, gid.into());
        self
    }

    pub(crate) fn size(mut self, size: u64) -> Self {
        self.octal(SIZE, 12, size);
        self
    }

    /// GNU's way to write large numbers.
    pub(crate) fn size_in_base_256(self, size: u64) -> Self {
        let mut field = [0; 12];
        field[0] = 0x80;
        field[4..].copy_from_slice(&size.to_be_bytes());
        self.with(SIZE, &field)
    }

    pub(crate) fn uid_in_base_256(self, uid: u64) -> Self {
        let mut field = uid.to_be_bytes();
        field[0] |= 0x80;
        self.with(UID, &field)
    }

    pub(crate) fn mtime_in_base_256(self, seconds: i64) -> Self {
        let mut field = if seconds < 0 { [0xff; 12] } else { [0; 12] };
        field[0] |= 0x80;
        field[4..].copy_from_slice(&seconds.to_be_bytes());
        self.with(MTIME, &field)
    }

    pub(crate) fn link(self, target: &[u8]) -> Self {
        self.with(LINK, &target[..target.len().min(100)])
    }

    pub(crate) fn device(mut self, major: u64, minor: u64) -> Self {
        self.octal(MAJOR, 8, major);
        self.octal(MINOR, 8, minor);
        self
    }

    /// GNU's sparse map in the header: at most four parts of (offset, length).
    pub(crate) fn sparse(mut self, parts: &[(u64, u64)], real_size: u64, is_extended: bool) -> Self {
        for (index, (offset, length)) in parts.iter().enumerate() {
            self.octal(386 + 24 * index, 12, *offset);
            self.octal(386 + 24 * index + 12, 12, *length);
        }
        self.0[482] = is_extended.into();
        let mut real = [0; 12];
        real[0] = 0x80;
        real[4..].copy_from_slice(&real_size.to_be_bytes());
        self.with(483, &real)
    }

    pub(crate) fn bytes(mut self) -> [u8; 512] {
        self.put(CHECKSUM, b"        ");
        let sum: u32 = self.0.iter().map(|byte| u32::from(*byte)).sum();
        self.put(CHECKSUM, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

/// A block that continues a GNU sparse map.
pub(crate) fn more_sparse(parts: &[(u64, u64)], is_extended: bool) -> [u8; 512] {
    let mut block = [0; 512];
    for (index, (offset, length)) in parts.iter().enumerate() {
        let at = 24 * index;
        block[at..at + 12].copy_from_slice(format!("{offset:011o}\0").as_bytes());
        block[at + 12..at + 24].copy_from_slice(format!("{length:011o}\0").as_bytes());
    }
    block[504] = is_extended.into();
    block
}

/// An archive.
#[derive(Clone, Default)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A header, and content as it is, padded to blocks.
    pub(crate) fn raw(mut self, header: Header, content: &[u8]) -> Self {
        self.0.extend_from_slice(&header.bytes());
        self.blocks(content)
    }

    /// Bytes, padded to blocks.
    pub(crate) fn blocks(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.raw(Header::new(b'5', name.as_bytes()), b"")
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        let header = Header::new(b'0', name.as_bytes()).size(content.len() as u64);
        self.raw(header, content.as_bytes())
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(Header::new(b'2', name.as_bytes()).link(target.as_bytes()), b"")
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.raw(Header::new(b'1', name.as_bytes()).link(target.as_bytes()), b"")
    }

    pub(crate) fn device(self, kind: u8, name: &str, major: u64, minor: u64) -> Self {
        self.raw(Header::new(kind, name.as_bytes()).device(major, minor), b"")
    }

    /// pax records for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.pax_bytes(&records.iter().flat_map(|(key, value)| record(key, value)).collect::<Vec<_>>())
    }

    pub(crate) fn pax_bytes(self, records: &[u8]) -> Self {
        self.raw(Header::new(b'x', b"PaxHeaders/x").size(records.len() as u64), records)
    }

    /// GNU's long name (`L`) or long link (`K`) for the next entry.
    pub(crate) fn long(self, kind: u8, name: &[u8]) -> Self {
        let content = [name, b"\0"].concat();
        self.raw(Header::gnu(kind, b"././@LongLink").size(content.len() as u64), &content)
    }

    /// The two blocks of zeros.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// `LENGTH KEY=VALUE\n`, in which the length counts itself.
pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}
