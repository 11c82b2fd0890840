//! Bytes that need no allocation while they are few, as names mostly are: there may be a million of them.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

/// So many fit in beside their number.
const FEW: usize = 22;

/// Bytes that are not changed, in 24 of their own where they are few.
#[derive(Clone)]
pub(super) enum ShortBytes {
    Few(u8, [u8; FEW]),
    Many(Box<[u8]>),
}

impl From<&[u8]> for ShortBytes {
    fn from(bytes: &[u8]) -> Self {
        if bytes.len() > FEW {
            return Self::Many(bytes.into());
        }
        let mut few = [0; FEW];
        few[..bytes.len()].copy_from_slice(bytes);
        Self::Few(bytes.len() as u8, few)
    }
}

impl Deref for ShortBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Few(len, bytes) => &bytes[..usize::from(*len)],
            Self::Many(bytes) => bytes,
        }
    }
}

impl fmt::Debug for ShortBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.deref().fmt(f)
    }
}

impl PartialEq for ShortBytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for ShortBytes {}

impl Hash for ShortBytes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.deref().hash(state);
    }
}

impl PartialOrd for ShortBytes {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ShortBytes {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.deref().cmp(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_bytes_that_were_given_however_many() {
        assert_eq!(size_of::<ShortBytes>(), 24);
        let all: Vec<Vec<u8>> =
            (0..40).map(|len| (0..len).map(|at: u8| at.wrapping_mul(7) ^ len).collect()).collect();
        for a in &all {
            let short = ShortBytes::from(&a[..]);
            assert_eq!(*short, a[..]);
            assert_eq!(matches!(short, ShortBytes::Few(..)), a.len() <= FEW);
            for b in &all {
                let other = ShortBytes::from(&b[..]);
                assert_eq!(short.cmp(&other), a.cmp(b));
                assert_eq!(short == other, a == b);
            }
        }
    }
}
