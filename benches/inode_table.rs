//! What does it cost to know an inode, in time and in memory?
//!
//! Prints first how many bytes each of a million inodes takes, as the allocator is asked for them, and how many
//! are left when all are forgotten.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::OsStr;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use plyfs::rules::BranchId;
use plyfs::rules::name::Name;
use plyfs::union::inode_table::{FoundInode, InodeTable, Lookup, NumberTaken};
use plyfs::union::node::{Body, DirPart, Node, NodeId, NodeState, Place, RealId};
use rustix::fs::FileType;

/// The system's, counting.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator as it is.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps alloc's contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the pointer came from the system's allocator, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MILLION: u64 = 1_000_000;
/// Files in one directory, and the first number of a file.
const IN_ONE_DIRECTORY: u64 = 100;
const FIRST: u64 = 1 << 32;

/// A union's table, filled as lookups of files in directories of a lower fill it.
struct Filled {
    table: InodeTable,
    parent: Arc<Node>,
    next: u64,
}

impl Filled {
    fn with(files: u64) -> Self {
        let root = Node::detached(NodeId::ROOT, FileType::Directory, state(Place::Root, directory(), 1));
        let table = InodeTable::default();
        table.insert_root(Arc::clone(&root));
        let mut filled = Self { table, parent: root, next: 0 };
        (0..files).for_each(|_| filled.add());
        filled
    }

    /// One more file.
    fn add(&mut self) {
        if self.next.is_multiple_of(IN_ONE_DIRECTORY) {
            let root = self.table.find(NodeId::ROOT).expect("the root");
            let number = 2 + self.next / IN_ONE_DIRECTORY;
            self.parent = self.intern(number, FileType::Directory, root, directory());
        }
        let parent = Arc::clone(&self.parent);
        black_box(self.intern(FIRST + self.next, FileType::RegularFile, parent, Body::Leaf(BranchId(1))));
        self.next += 1;
    }

    fn intern(&self, number: u64, kind: FileType, parent: Arc<Node>, body: Body) -> Arc<Node> {
        let name = Name::new(OsStr::new(&format!("file-{number}"))).expect("a name");
        let found = found(number, kind, state(Place::Entry(parent, name), body, number));
        self.table.intern(found, Lookup::Counted, NumberTaken::GiveAlias).expect("a node")
    }

    /// As the kernel does when it needs memory.
    fn forget_all(&mut self) {
        self.parent = self.table.find(NodeId::ROOT).expect("the root");
        for at in 0..self.next {
            drop(self.table.forget(NodeId(FIRST + at), 1));
        }
        for at in 0..self.next.div_ceil(IN_ONE_DIRECTORY) {
            drop(self.table.forget(NodeId(2 + at), 1));
        }
    }
}

fn directory() -> Body {
    let part = DirPart::new_in_upper(RealId::NONE, false);
    Body::Dir([DirPart { branch: BranchId(1), ..part }].into())
}

fn state(place: Place, body: Body, ino: u64) -> NodeState {
    NodeState::found(place, body, RealId { filesystem: 0, ino, birth: 0 })
}

fn found(number: u64, kind: FileType, state: NodeState) -> FoundInode {
    FoundInode {
        number: NodeId(number),
        kind,
        state,
        lower: None,
        renumbers: false,
        hard_linked: false,
        looked_anew: false,
    }
}

fn memory(_: &mut Criterion) {
    let before = IN_USE.load(Ordering::Relaxed);
    let mut filled = Filled::with(MILLION);
    let full = IN_USE.load(Ordering::Relaxed) - before;
    filled.forget_all();
    let left = IN_USE.load(Ordering::Relaxed) - before;
    let each = |bytes: usize| bytes as f64 / MILLION as f64;
    println!(
        "memory: {:.0} bytes for each of 1,000,000 inodes; {:.0} when all are forgotten",
        each(full),
        each(left)
    );
}

fn time(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("inode table of 1,000,000");
    let mut filled = Filled::with(MILLION);
    let mut at = 0;
    // A stride that leaves out no file, and no two in one line of the processor's cache.
    let mut next = move || {
        at = (at + 7_919) % MILLION;
        NodeId(FIRST + at)
    };
    group.bench_function("find", |bench| bench.iter(|| filled.table.find(next())));
    group.bench_function("intern a known one", |bench| {
        bench.iter_batched(
            || filled.table.find(next()).expect("a node"),
            |node| {
                let state = node.state().clone();
                let found = found(node.id.0, node.kind, state);
                filled.table.intern(found, Lookup::Counted, NumberTaken::GiveAlias)
            },
            BatchSize::SmallInput,
        );
    });
    // So that the next one needs no directory of its own.
    filled.add();
    group.bench_function("intern a new one and forget it", |bench| {
        bench.iter(|| {
            filled.add();
            filled.next -= 1;
            filled.table.forget(NodeId(FIRST + filled.next), 1)
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30);
    targets = memory, time
}
criterion_main!(benches);
