//! What is in a file that neither compresses nor has holes?

use crate::units::MIB;

/// Bytes that no filesystem can make fewer of, the same each time.
#[derive(Debug)]
pub struct Noise {
    state: u64,
    block: Vec<u8>,
}

impl Default for Noise {
    fn default() -> Self {
        Self { state: 0x9e37_79b9_7f4a_7c15, block: vec![0; MIB as usize] }
    }
}

impl Noise {
    /// The next 1 MiB of it, or less if only `left` bytes are wanted.
    pub fn next(&mut self, left: u64) -> &[u8] {
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(self.block.len());
        for word in self.block[..size].chunks_mut(8) {
            // Marsaglia's xorshift.
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            word.copy_from_slice(&self.state.to_le_bytes()[..word.len()]);
        }
        &self.block[..size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_as_long_as_asked_for_and_does_not_repeat() {
        let mut noise = Noise::default();
        let first = noise.next(MIB + 1).to_vec();
        assert_eq!(first.len() as u64, MIB);
        assert_ne!(first[..8], first[8..16]);
        assert_ne!(first[..3], *noise.next(3));
    }
}
