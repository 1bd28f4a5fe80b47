//! The log over a disk that loses power, tears writes, fails or rots (scenarios P5, P10, P11, F1,
//! F2, F5, F6, F7, F8).

mod simulated_disk;

use raft_core::effects::{Fetch, FetchResult, Write};
use raft_core::frame::encode_entry;
use raft_core::types::{
    Entry, EntryId, EntryKind, FetchId, GroupId, HardState, Index, Mark, NodeId, Term, WriteToken,
};
use server::log_store::{LogEvent, LogStore, LogStoreConfig, LogStoreError};
use simulated_disk::{Disk, Random, Step, crash};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, channel};

const GROUPS: u64 = 3;

/// What the log should hold of each group.
type Model = BTreeMap<GroupId, (HardState, Vec<Entry>)>;

/// Writes as a core would give them, one submission each, and the model after each: `states[k]` is
/// what `k` submissions leave.
struct Workload {
    submissions: Vec<Vec<(GroupId, Write)>>,
    states: Vec<Model>,
}

impl Workload {
    fn new(seed: u64, submissions: u64) -> Workload {
        let mut random = Random(seed);
        let mut model = Model::new();
        let mut made = Workload { submissions: Vec::new(), states: vec![Model::new()] };
        for token in 1..=submissions {
            let mut writes = Vec::new();
            for group in 1..=GROUPS {
                if random.below(2) == 0 || group == 1 {
                    let group = GroupId(group as u32);
                    let (hard, entries) = model.entry(group).or_default();
                    writes.push((group, write(&mut random, group, token, hard, entries)));
                }
            }
            made.submissions.push(writes);
            made.states.push(model.clone());
        }
        made
    }
}

fn write(
    random: &mut Random,
    group: GroupId,
    token: u64,
    hard: &mut HardState,
    entries: &mut Vec<Entry>,
) -> Write {
    let new_term = hard.term == Term(0) || random.below(6) == 0;
    if new_term {
        *hard = HardState {
            term: hard.term.next(),
            voted_for: Some(NodeId(random.below(3) + 1)),
            promised_ns: 0,
        };
    }
    let cut = new_term && !entries.is_empty() && random.below(2) == 0;
    let from = random.below(entries.len() as u64 + 1) as usize;
    let truncate_from = cut.then(|| {
        entries.truncate(from);
        Index(from as u64 + 1)
    });
    let mut appended = Vec::new();
    for _ in 0..random.below(4) {
        let id = EntryId { index: Index(entries.len() as u64 + 1), term: hard.term };
        let bytes = match random.below(20) {
            0 => random.below(90_000),
            _ => random.below(600),
        };
        let payload: Vec<u8> = (0..bytes).map(|at| (at ^ token) as u8).collect();
        let entry = encode_entry(group, id, EntryKind::Command, &payload);
        entries.push(entry.clone());
        appended.push(entry);
    }
    let mark = Mark { accept_term: hard.term, index: Index(entries.len() as u64) };
    let hard = new_term.then_some(*hard);
    Write {
        token: WriteToken(token),
        hard,
        truncate_from,
        install: None,
        entries: appended.into(),
        mark,
    }
}

struct Log {
    store: LogStore,
    groups: BTreeMap<GroupId, raft_core::Restored>,
    events: Receiver<LogEvent>,
}

/// Opens the log of a disk; each `Persisted` is noted on it as well.
fn open(disk: &Disk) -> Result<Log, LogStoreError> {
    let (sender, events) = channel();
    let noted = disk.clone();
    let config = LogStoreConfig::default();
    let (store, groups) =
        LogStore::open_backend(disk.clone(), config, &BTreeMap::new(), move |event| {
            if let LogEvent::Persisted(tokens) = &event {
                noted.mark(tokens.iter().map(|(_, token)| token.0).max().unwrap());
            }
            let _ = sender.send(event);
        })?;
    Ok(Log { store, groups, events })
}

/// Everything the log holds, read back entry by entry.
fn contents(log: &Log) -> Model {
    let mut model = Model::new();
    for (group, recovered) in &log.groups {
        let mut entries: Vec<Entry> = Vec::new();
        while (entries.len() as u64) < recovered.last.index.0 {
            let from = Index(entries.len() as u64 + 1);
            let fetch =
                Fetch { id: FetchId(0), from, to: recovered.last.index, bytes_max: 1 << 16 };
            log.store.fetch(*group, fetch);
            match log.events.recv().unwrap() {
                LogEvent::Fetched { result: FetchResult::Entries(more), .. } => {
                    entries.extend(more);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(entries.last().map_or(EntryId::default(), |entry| entry.id), recovered.last);
        let mut runs: Vec<EntryId> = entries.iter().map(|entry| entry.id).collect();
        runs.dedup_by_key(|id| id.term);
        assert_eq!(runs, recovered.term_runs);
        model.insert(*group, (recovered.hard, entries));
    }
    model
}

/// Submits a workload, up to three submissions ahead of what is reported durable, and closes the
/// log. Returns how many were reported, and the sentence if it failed.
fn play(log: Log, workload: &Workload) -> (usize, Option<String>) {
    let mut durable = 0;
    let mut random = Random(workload.submissions.len() as u64);
    let mut failure = None;
    let take = |event, durable: &mut usize, failure: &mut Option<String>| {
        assert!(failure.is_none(), "{event:?} after the failure");
        match event {
            LogEvent::Persisted(tokens) => {
                *durable = tokens.iter().map(|(_, token)| token.0 as usize).max().unwrap();
            }
            LogEvent::Failed(sentence) => *failure = Some(sentence),
            LogEvent::CheckpointWanted(_) => {}
            LogEvent::Fetched { .. } => panic!("{event:?}"),
        }
    };
    for (at, writes) in workload.submissions.iter().enumerate() {
        log.store.submit(writes.clone());
        let ahead = random.within(0..3);
        while durable + ahead < at + 1 && failure.is_none() {
            take(log.events.recv().unwrap(), &mut durable, &mut failure);
        }
    }
    let closed = log.store.close();
    for event in log.events.try_iter() {
        take(event, &mut durable, &mut failure);
    }
    assert_eq!(closed.err(), failure, "what the log says at its end");
    (durable, failure)
}

/// Runs a workload to its end and returns the disk it ran on.
fn played(workload: &Workload) -> Disk {
    let disk = Disk::default();
    let (durable, failure) = play(open(&disk).unwrap(), workload);
    assert_eq!((durable, failure), (workload.submissions.len(), None));
    disk
}

/// How many submissions were reported durable within these steps.
fn reported(steps: &[Step]) -> usize {
    let marks = steps.iter().filter_map(|step| match step {
        Step::Mark(token) => Some(*token as usize),
        Step::Write(..) | Step::SetLen(_) | Step::Sync => None,
    });
    marks.max().unwrap_or(0)
}

/// Opens an image and checks that it holds a whole number of submissions, at least `durable`.
fn check_image(workload: &Workload, image: Vec<u8>, durable: usize, what: &str) -> Disk {
    let disk = Disk::with(image);
    let log = open(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = contents(&log);
    log.store.close().unwrap();
    let fits = |state: &Model| *state == found;
    assert!(workload.states[durable..].iter().any(fits), "{what}: not a state after {durable}");
    disk
}

#[test]
fn what_arrives_during_a_sync_is_the_next_commit() {
    let workload = Workload::new(6, 100);
    let disk = Disk::default();
    let log = open(&disk).unwrap();
    disk.hold_syncs();
    log.store.submit(workload.submissions[0].clone());
    disk.await_held_sync();
    for writes in &workload.submissions[1..] {
        log.store.submit(writes.clone());
    }
    assert!(log.events.try_recv().is_err(), "reported before it was durable");
    disk.release();
    let mut reports = Vec::new();
    while reports.last() != Some(&100) {
        let LogEvent::Persisted(tokens) = log.events.recv().unwrap() else { panic!("no report") };
        reports.push(tokens.iter().map(|(_, token)| token.0).max().unwrap());
    }
    assert_eq!(reports, [1, 100]);
    assert_eq!(log.store.stats().commits, 2);
    log.store.close().unwrap();
}

#[test]
fn fetches_agree_with_what_was_submitted_before_them() {
    let workload = Workload::new(10, 300);
    let disk = Disk::default();
    let log = open(&disk).unwrap();
    let mut random = Random(5);
    for (writes, state) in workload.submissions.iter().zip(&workload.states[1..]) {
        log.store.submit(writes.clone());
        for (group, (_, entries)) in state {
            let last = entries.len() as u64;
            let from = random.below(last + 2) + 1;
            let to = from + random.below(40);
            let bytes_max = random.below(4000) + 1;
            let (id, first) = (FetchId(from), Index(from));
            log.store.fetch(*group, Fetch { id, from: first, to: Index(to), bytes_max });
            let result = loop {
                match log.events.recv().unwrap() {
                    LogEvent::Fetched { result, .. } => break result,
                    LogEvent::Persisted(_) | LogEvent::CheckpointWanted(_) => {}
                    LogEvent::Failed(sentence) => panic!("{sentence}"),
                }
            };
            let FetchResult::Entries(found) = result else {
                assert!(from > last, "{group}: {from} is gone");
                continue;
            };
            let rest = &entries[from as usize - 1..to.min(last) as usize];
            assert_eq!(found, rest[..found.len()], "{group}: {from} to {to}");
            let bytes = |entries: &[Entry]| entries.iter().map(|e| e.frame.len() as u64).sum();
            let (got, before): (u64, u64) = (bytes(&found), bytes(&found[..found.len() - 1]));
            assert!(before < bytes_max, "{group}: too much");
            assert!(got >= bytes_max || found.len() == rest.len(), "{group}: too little");
        }
    }
    log.store.close().unwrap();
}

#[test]
fn whatever_a_power_loss_leaves_opens_with_everything_that_was_reported() {
    let mut random = Random(1);
    let mut lost_some = 0;
    for seed in 0..4 {
        let workload = Workload::new(seed, 40);
        let disk = played(&workload);
        let steps = disk.steps();
        // Before its first reported write there may be no log at all.
        let first = steps.iter().position(|step| matches!(step, Step::Mark(_))).unwrap();
        for _ in 0..60 {
            let at = random.within(first..steps.len());
            let durable = reported(&steps[..=at]);
            let image = crash(&[], &steps[..=at], &mut random);
            let what = format!("seed {seed}, step {at}");
            let recovered = check_image(&workload, image.clone(), durable, &what);
            lost_some += usize::from(durable < workload.submissions.len());

            // And once more, while it recovers.
            let recovery = recovered.steps();
            let again = random.within(0..recovery.len());
            let image = crash(&image, &recovery[..again], &mut random);
            check_image(&workload, image, durable, &format!("{what}, then {again}"));
        }
    }
    assert!(lost_some > 100, "the crashes came too late to mean anything");
}

#[test]
fn a_power_loss_at_the_very_beginning_leaves_a_log_that_opens_or_says_why_not() {
    let workload = Workload::new(9, 3);
    let steps = played(&workload).steps();
    let mut random = Random(2);
    for at in 0..steps.len().min(60) {
        let image = crash(&[], &steps[..at], &mut random);
        let disk = Disk::with(image);
        match open(&disk) {
            Ok(log) => {
                let found = contents(&log);
                let durable = reported(&steps[..at]);
                assert!(workload.states[durable..].contains(&found), "step {at}");
                log.store.close().unwrap();
            }
            // Only a log that had never been opened may be unreadable.
            Err(error) => assert_eq!(reported(&steps[..at]), 0, "step {at}: {error}"),
        }
    }
}

#[test]
fn after_the_first_error_nothing_is_written_and_nothing_reported() {
    let workload = Workload::new(5, 12);
    let calls = played(&workload).calls();
    let fresh = Disk::default();
    open(&fresh).unwrap().store.close().unwrap();
    let mut failures = 0;
    for fail_at in 0..calls {
        let disk = Disk::failing_at(fresh.image(), fail_at);
        let Ok(log) = open(&disk) else { continue };
        let (durable, failure) = play(log, &workload);
        if let Some(sentence) = failure {
            assert!(sentence.contains("the simulated disk is broken"), "{sentence}");
            assert_eq!(disk.calls_after_failure(), 0, "written after call {fail_at} failed");
            failures += 1;
        }
        // The commit in doubt may be there or not.
        check_image(&workload, disk.image(), durable, &format!("call {fail_at}"));
    }
    assert!(failures > 10, "only {failures} failures were met");
}

#[test]
fn rot_is_found_or_does_not_matter() {
    let workload = Workload::new(7, 30);
    let image = played(&workload).image();
    let expected = workload.states.last().unwrap();
    let mut random = Random(3);
    let mut found = 0;
    for _ in 0..1500 {
        let mut rotten = image.clone();
        let at = random.within(0..rotten.len());
        rotten[at] ^= 1 << random.below(8);
        let opened = catch_unwind(AssertUnwindSafe(|| open(&Disk::with(rotten))));
        match opened.unwrap_or_else(|_| panic!("byte {at}: a panic")) {
            Ok(log) => assert_eq!(contents(&log), *expected, "byte {at}"),
            Err(_) => found += 1,
        }
    }
    assert!(found > 20, "only {found} were found");
}

#[test]
fn a_file_that_was_cut_or_overwritten_is_found_or_does_not_matter() {
    let workload = Workload::new(8, 30);
    let image = played(&workload).image();
    let expected = workload.states.last().unwrap();
    let mut random = Random(4);
    let mut found = 0;
    for round in 0..100 {
        let mut rotten = image.clone();
        let at = random.within(1..rotten.len());
        let what = match round % 3 {
            0 => {
                rotten.truncate(at);
                "cut"
            }
            1 => {
                let end = (at + 4096).min(rotten.len());
                rotten[at..end].fill(0);
                "zeroed"
            }
            _ => {
                let page = 4096.min(rotten.len() - at);
                let from = random.within(0..rotten.len() - page);
                rotten.copy_within(from..from + page, at);
                "overwritten"
            }
        };
        let opened = catch_unwind(AssertUnwindSafe(|| open(&Disk::with(rotten))));
        match opened.unwrap_or_else(|_| panic!("{what} at byte {at}: a panic")) {
            Ok(log) => assert_eq!(contents(&log), *expected, "{what} at byte {at}"),
            Err(_) => found += 1,
        }
    }
    assert!(found > 40, "only {found} were found");
}
