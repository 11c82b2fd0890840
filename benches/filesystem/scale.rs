//! How much is measured, and how often?

use plyfs::units::{GIB, KIB, MIB};

/// The sizes of everything.
#[derive(Debug, Clone)]
pub(crate) struct Scale {
    /// Times that each workload is run on each filesystem.
    pub(crate) rounds: u32,
    /// A run of a workload is repeated until it has taken so many seconds.
    pub(crate) seconds: f64,
    /// Files of /usr/share in the tree.
    pub(crate) tree_files: usize,
    /// Files in the repository.
    pub(crate) repository_files: usize,
    /// The big file.
    pub(crate) big_file: u64,
    /// Written in blocks of 1 MiB.
    pub(crate) written_in_big_blocks: u64,
    /// Written in blocks of 4 KiB.
    pub(crate) written_in_small_blocks: u64,
    /// Blocks of 4 KiB that are read or written anywhere in a big file.
    pub(crate) random_blocks: usize,
    /// Files of the tree whose memory is looked at.
    pub(crate) many_files: usize,
    /// Small files that are created.
    pub(crate) created: usize,
    /// Small files that are copied up.
    pub(crate) copied: usize,
    /// Branches of the deep stack.
    pub(crate) branches: usize,
    /// Copy-up against the size of the file.
    pub(crate) copy_up_sizes: Vec<u64>,
    /// Lookup against the number of branches.
    pub(crate) branch_counts: Vec<usize>,
    /// Listing against the number of entries.
    pub(crate) directory_sizes: Vec<usize>,
    /// Throughput against the number of clients.
    pub(crate) client_counts: Vec<usize>,
    /// Whether an image can be mounted: only by real root.
    pub(crate) may_loop_mount: bool,
}

impl Scale {
    pub(crate) fn full() -> Self {
        Self {
            rounds: 5,
            seconds: 2.0,
            tree_files: 60_000,
            repository_files: 8_500,
            big_file: GIB,
            written_in_big_blocks: 512 * MIB,
            written_in_small_blocks: 200_000_000,
            random_blocks: 100_000,
            many_files: 1_000_000,
            created: 10_000,
            copied: 2_000,
            branches: 64,
            copy_up_sizes: (0..10).map(|power| KIB << (2 + 2 * power)).collect(),
            branch_counts: vec![1, 2, 4, 8, 16, 32, 64, 128, 256],
            directory_sizes: vec![100, 1_000, 10_000, 80_000],
            client_counts: vec![1, 2, 4, 8],
            may_loop_mount: true,
        }
    }

    pub(crate) fn quick() -> Self {
        Self {
            rounds: 3,
            seconds: 0.25,
            tree_files: 8_000,
            repository_files: 2_000,
            big_file: 128 * MIB,
            written_in_big_blocks: 128 * MIB,
            written_in_small_blocks: 40_000_000,
            random_blocks: 20_000,
            many_files: 100_000,
            created: 2_000,
            copied: 500,
            copy_up_sizes: vec![4 * KIB, 64 * KIB, MIB, 16 * MIB],
            branch_counts: vec![1, 4, 16, 64],
            directory_sizes: vec![100, 1_000, 10_000],
            client_counts: vec![1, 2, 4],
            ..Self::full()
        }
    }

    pub(crate) fn smoke() -> Self {
        Self {
            rounds: 1,
            seconds: 0.0,
            tree_files: 100,
            repository_files: 50,
            big_file: MIB,
            written_in_big_blocks: 2 * MIB,
            written_in_small_blocks: 64 * KIB,
            random_blocks: 100,
            many_files: 1_000,
            created: 20,
            copied: 10,
            branches: 8,
            copy_up_sizes: vec![4 * KIB, 64 * KIB],
            branch_counts: vec![1, 8],
            directory_sizes: vec![10, 100],
            client_counts: vec![1, 2],
            may_loop_mount: true,
        }
    }
}
