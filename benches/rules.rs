//! What do the rules cost? They run for each name that is looked up or listed.

use std::ffi::OsStr;
use std::hint::black_box;
use std::ops::ControlFlow;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use plyfs::rules::BranchId;
use plyfs::rules::merge::{Listed, Merge};
use plyfs::rules::name::{Name, Spelling};
use plyfs::rules::plan::{self, At, Content, NewEntry, Replace};
use plyfs::rules::resolve::{Entry, EntryStack, Found, Resolution, Resolver};

fn name(text: &str) -> Name {
    Name::new(OsStr::new(text)).expect("a name")
}

fn names(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("name");
    group.bench_function("from bytes", |bench| {
        bench.iter(|| Name::new(black_box(OsStr::new("default.conf"))))
    });
    for (what, on_disk) in
        [("an entry", "default.conf"), ("a whiteout", ".wh.default.conf"), ("opaque", ".wh..wh..opq")]
    {
        group.bench_function(format!("read {what}"), |bench| {
            bench.iter(|| Spelling::of(black_box(OsStr::new(on_disk))));
        });
    }
    let plain = name("default.conf");
    group.bench_function("write a whiteout", |bench| bench.iter(|| black_box(&plain).whiteout()));
    group.finish();
}

/// What a stack says of a name: a directory in every branch, the longest way; or a file in the lowest.
fn resolve(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("resolve");
    let nothing = Entry::default();
    let directory = Entry { found: Some(Found::Dir { opaque: false }), ..Entry::default() };
    let file = Entry { found: Some(Found::Leaf), ..Entry::default() };
    for branches in [1_u16, 8, 64] {
        group.throughput(Throughput::Elements(branches.into()));
        for (what, above, lowest) in [("a directory", directory, directory), ("a file below", nothing, file)]
        {
            group.bench_function(BenchmarkId::new(what, branches), |bench| {
                bench.iter(|| {
                    let mut resolver = Resolver::default();
                    for branch in 0..branches {
                        let entry = if branch + 1 == branches { lowest } else { above };
                        if let ControlFlow::Break(()) = resolver.hear(BranchId(branch), black_box(entry)) {
                            break;
                        }
                    }
                    resolver.resolution()
                });
            });
        }
    }
    group.finish();
}

/// Three branches, which share a third of their names.
fn merge(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("merge");
    group.sample_size(20);
    for entries in [100_usize, 10_000, 80_000] {
        let listing = |branch: usize| {
            let of_branch = (0..entries).filter(move |at| at % 3 == 0 || at % 3 == branch);
            of_branch
                .map(|at| (Spelling::Entry(name(&format!("entry-{at}"))), Listed::Leaf(())))
                .collect::<Vec<_>>()
        };
        group.throughput(Throughput::Elements(entries as u64));
        group.bench_function(BenchmarkId::from_parameter(entries), |bench| {
            bench.iter_batched(
                || [listing(0), listing(1), listing(2)],
                |listings| {
                    let mut merge = Merge::default();
                    for (branch, listing) in (0..).zip(listings) {
                        merge.add(BranchId(branch), listing);
                    }
                    merge.finish()
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn plans(criterion: &mut Criterion) {
    let (old, new) = (name("old"), name("new"));
    let absent = EntryStack { upper: Entry::default(), lowers: Resolution::Absent };
    let in_lower = EntryStack { lowers: Resolution::Leaf(BranchId(1)), ..absent.clone() };
    let (source, target) = (At { name: &old, stack: &in_lower }, At { name: &new, stack: &absent });
    let mut group = criterion.benchmark_group("plan");
    group.bench_function("create", |bench| bench.iter(|| plan::create(black_box(target), NewEntry::Leaf)));
    group.bench_function("unlink", |bench| bench.iter(|| plan::unlink(black_box(source))));
    group.bench_function("rename", |bench| {
        bench.iter(|| plan::rename(black_box(source), target, Content::Empty, Replace::Allowed));
    });
    group.finish();
}

criterion_group!(benches, names, resolve, merge, plans);
criterion_main!(benches);
