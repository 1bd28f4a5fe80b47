//! The log over a disk that loses power, tears writes, fails or rots (scenarios P5, P6, P8, P10, P11,
//! F1, F2, F5, F6, F7, F8), while it is compacted, takes snapshots and removes what is not needed.

mod log_model;
mod simulated_disk;

use log_model::{Contents, Log, Model, Workload, allows};
use raft_core::effects::{Fetch, FetchResult, Write};
use raft_core::frame::encode_entry;
use raft_core::random::Random;
use raft_core::types::{
    Entry, EntryId, EntryKind, FetchId, GroupId, HardState, Index, Term, WriteToken,
};
use server::log_store::{LogEvent, LogStats, LogStore, LogStoreConfig, LogStoreError};
use simulated_disk::{Disk, Power, Step, crash, lost_while_growing, reported, within};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::channel;

/// Images of one ordinary run; `FLOTILLA_CRASH_IMAGES` asks for another number.
const IMAGES: usize = 12_000;

/// A log that collects as soon as it can, one with a little patience, or one as nodes have it.
fn config(seed: u64) -> LogStoreConfig {
    LogStoreConfig {
        cache_bytes: 1 << 20,
        must_exist: false,
        collect_bytes_min: [1, 1, 20_000, 64 << 20][seed as usize % 4],
        rewrite_bytes_max: [4_000, 4 << 20][seed as usize / 4 % 2],
    }
}

/// Opens the log of a disk; each `Persisted` is noted on it as well.
fn open(disk: &Disk, config: LogStoreConfig) -> Result<Log, LogStoreError> {
    open_installing(disk, config, &BTreeMap::new())
}

fn open_installing(
    disk: &Disk,
    config: LogStoreConfig,
    installing: &BTreeMap<GroupId, EntryId>,
) -> Result<Log, LogStoreError> {
    let (sender, events) = channel();
    let noted = disk.clone();
    let (store, groups) = LogStore::open_backend(disk.clone(), config, installing, move |event| {
        if let LogEvent::Persisted(tokens) = &event {
            noted.mark(tokens.iter().map(|(_, token)| token.0).max().unwrap());
        }
        let _ = sender.send(event);
    })?;
    Ok(Log { store, groups, events })
}

/// What became of a workload.
#[derive(Debug, Default)]
struct Played {
    /// Submissions reported durable.
    durable: usize,
    /// The sentence if it failed.
    failure: Option<String>,
    stats: LogStats,
    checkpoints_wanted: usize,
    forgotten: usize,
}

impl Played {
    fn take(&mut self, event: LogEvent) {
        // What was planned before may still be read.
        let read = matches!(event, LogEvent::Fetched { .. });
        assert!(self.failure.is_none() || read, "{event:?} after the failure");
        match event {
            LogEvent::Persisted(tokens) => {
                self.durable = tokens.iter().map(|(_, token)| token.0 as usize).max().unwrap();
            }
            LogEvent::Failed(sentence) => self.failure = Some(sentence),
            LogEvent::CheckpointWanted(_) => self.checkpoints_wanted += 1,
            LogEvent::Forgotten(_) => self.forgotten += 1,
            LogEvent::Fetched { .. } => {}
        }
    }
}

/// Submits what comes in a workload after `from` submissions, up to three of them ahead of what is
/// reported durable, and closes the log. Now and then something is read.
fn play(log: Log, workload: &Workload, from: usize, to: usize) -> Played {
    let mut played = Played { durable: from, ..Played::default() };
    let mut random = Random::new(to as u64);
    // Whether that was done is not known: it is asked for again.
    let before = from.checked_sub(1).map(|at| &workload.submissions[at]);
    before.into_iter().for_each(|last| last.forget(&log.store));
    for at in from..to {
        let submission = &workload.submissions[at];
        log.store.submit(submission.writes.clone());
        for (group, base) in &submission.compacts {
            log.store.compact(*group, *base);
        }
        submission.forget(&log.store);
        let (group, _) = submission.writes[0];
        let first = Index(random.below(40) + 1);
        let fetch = Fetch { id: FetchId(0), from: first, to: Index(100), bytes_max: 1000 };
        log.store.fetch(group, fetch);
        let ahead = within(&mut random, 0..3);
        while played.durable + ahead < at + 1 && played.failure.is_none() {
            played.take(log.events.recv().unwrap());
        }
    }
    let failed = played.failure.is_some();
    played.stats = log.store.stats();
    let closed = log.store.close();
    for event in log.events.try_iter() {
        played.take(event);
    }
    assert!(!failed || closed.is_err());
    assert_eq!(closed.err(), played.failure, "what the log says at its end");
    played
}

/// Runs a workload to its end and returns the disk it ran on.
fn run(workload: &Workload, config: LogStoreConfig) -> (Disk, Played) {
    let disk = Disk::default();
    let count = workload.submissions.len();
    let played = play(open(&disk, config).unwrap(), workload, 0, count);
    assert_eq!((played.durable, &played.failure), (count, &None));
    (disk, played)
}

/// How many submissions were reported durable within these steps.
/// An image that was opened and closed again.
struct Opened {
    disk: Disk,
    found: Contents,
    /// How many submissions it holds.
    state: usize,
}

/// Opens an image and checks that it holds a whole number of submissions, at least `durable`.
fn check_image(
    workload: &Workload,
    config: LogStoreConfig,
    image: Vec<u8>,
    durable: usize,
    what: &str,
) -> Opened {
    let disk = Disk::with(image);
    let log = open(&disk, config).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = log.contents();
    log.store.close().unwrap();
    let fits = |state: &Model| allows(state, &found);
    let state = workload.states[durable..].iter().position(fits);
    let state = state.unwrap_or_else(|| panic!("{what}: not a state after {durable}: {found:?}"));
    Opened { disk, found, state: durable + state }
}

/// A snapshot whose state is on disk while the log does not know: its end is an entry that the log
/// has, another one in its place, or one that the log has not reached.
fn install(found: &Contents, random: &mut Random) -> Option<(GroupId, EntryId)> {
    let at = random.below(found.len().max(1) as u64) as usize;
    let (group, log) = found.iter().nth(at)?;
    let ids: Vec<EntryId> = log.entries.iter().map(|entry| entry.id).collect();
    let last = ids.last().copied().unwrap_or(log.base);
    let held = ids.get(random.below(ids.len().max(1) as u64) as usize).copied().unwrap_or(last);
    let at = match random.below(3) {
        0 => held,
        1 => EntryId { term: Term(held.term.0 + 1), ..held },
        _ => EntryId { index: Index(last.index.0 + random.below(4) + 1), term: log.hard.term },
    };
    Some((*group, at))
}

/// Finishes an install on an image, with a power loss on the way; returns how many images it took.
fn check_install(
    config: LogStoreConfig,
    image: &[u8],
    found: &Contents,
    random: &mut Random,
    what: &str,
) -> usize {
    let Some((group, at)) = install(found, random) else { return 0 };
    let installing = BTreeMap::from([(group, at)]);
    let what = format!("{what}, {group} installs {at}");
    let mut expected = found.clone();
    let log = expected.get_mut(&group).unwrap();
    match log.entries.iter().position(|entry| entry.id == at) {
        Some(held) => drop(log.entries.drain(..=held)),
        None if log.base == at => {}
        None => log.entries.clear(),
    }
    log.base = at;
    let reopen = |image: Vec<u8>, installing: &BTreeMap<_, _>| {
        let disk = Disk::with(image);
        let log = open_installing(&disk, config, installing)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let opened = disk.steps().len();
        assert_eq!(log.contents(), expected, "{what}");
        log.store.close().unwrap();
        (disk, opened)
    };
    let (disk, opened) = reopen(image.to_vec(), &installing);
    let steps = disk.steps();
    let loss = within(random, 0..steps.len() + 1);
    let image = crash(image, &steps[..loss], random);
    // Once the log is open, the state's file may forget the install.
    if loss >= opened {
        reopen(image, &BTreeMap::new());
    } else {
        reopen(image, &installing);
    }
    1
}

#[test]
fn what_arrives_during_a_sync_is_the_next_commit() {
    let workload = Workload::new(6, 100);
    let disk = Disk::default();
    let log = open(&disk, LogStoreConfig::default()).unwrap();
    disk.hold_syncs();
    log.store.submit(workload.submissions[0].writes.clone());
    disk.await_held_sync();
    for (before, submission) in workload.submissions.iter().zip(&workload.submissions[1..]) {
        before.forget(&log.store);
        log.store.submit(submission.writes.clone());
    }
    assert!(log.events.try_recv().is_err(), "reported before it was durable");
    disk.release();
    let mut reports = Vec::new();
    while reports.last() != Some(&100) {
        let tokens = match log.events.recv().unwrap() {
            LogEvent::Persisted(tokens) => tokens,
            LogEvent::Forgotten(_) => continue,
            other => panic!("{other:?}"),
        };
        reports.push(tokens.iter().map(|(_, token)| token.0).max().unwrap());
    }
    assert_eq!(reports, [1, 100]);
    assert_eq!(log.store.stats().commits, 2);
    log.store.close().unwrap();
}

/// Submits so many small writes while a sync is held; all of them are in the log afterwards.
fn submit_while_it_is_stuck(writes: u64) {
    let group = GroupId(1);
    let disk = Disk::default();
    let log = open(&disk, LogStoreConfig::default()).unwrap();
    let submit = |index: u64| {
        let id = EntryId { index: Index(index), term: Term(1) };
        let entry = encode_entry(group, id, EntryKind::Empty, b"");
        let hard = HardState { term: Term(1), ..HardState::default() };
        let write = Write {
            token: WriteToken(index),
            hard: (index == 1).then_some(hard),
            truncate_from: None,
            install: None,
            entries: [entry].into_iter().collect(),
        };
        log.store.submit(vec![(group, write)]);
    };
    disk.hold_syncs();
    submit(1);
    disk.await_held_sync();
    (2..=writes).for_each(submit);
    assert!(log.events.try_recv().is_err(), "reported before it was durable");
    disk.release();
    let mut last = 0;
    while last < writes {
        match log.events.recv().unwrap() {
            LogEvent::Persisted(tokens) => last = tokens[0].1.0,
            other => panic!("{other:?}"),
        }
    }
    log.store.close().unwrap();
    let again = open(&Disk::with(disk.image()), LogStoreConfig::default()).unwrap();
    assert_eq!(again.groups[&group].last.index, Index(writes));
    again.store.close().unwrap();
}

/// A batch takes 4,096 commands.
#[test]
fn what_does_not_fit_a_batch_is_in_the_next() {
    submit_while_it_is_stuck(10_000);
}

/// A follower is sent small entries by the ten thousand while its disk says nothing, and its thread has links and
/// clients besides.
#[test]
fn f12_a_disk_that_is_stuck_holds_up_nobody_who_submits() {
    submit_while_it_is_stuck(40_000);
}

#[test]
fn fetches_agree_with_what_was_submitted_before_them() {
    let workload = Workload::new(10, 400);
    let disk = Disk::default();
    let log = open(&disk, config(0)).unwrap();
    let mut random = Random::new(5);
    let (mut held, mut overtaken) = (0, 0);
    for (submission, state) in workload.submissions.iter().zip(&workload.states[1..]) {
        log.store.submit(submission.writes.clone());
        for (group, base) in &submission.compacts {
            log.store.compact(*group, *base);
        }
        submission.forget(&log.store);
        for (group, model) in state.iter().filter(|(_, model)| !model.forgotten && !model.left) {
            let (begin, last) = (model.compacted.max(model.base.index).0, model.last().index.0);
            let from = begin.saturating_sub(3) + random.below(last - begin + 5) + 1;
            let to = from + random.below(40);
            let bytes_max = random.below(4000) + 1;
            let (id, first) = (FetchId(from), Index(from));
            log.store.fetch(*group, Fetch { id, from: first, to: Index(to), bytes_max });
            let result = loop {
                match log.events.recv().unwrap() {
                    LogEvent::Fetched { result, .. } => break result,
                    LogEvent::Persisted(_)
                    | LogEvent::CheckpointWanted(_)
                    | LogEvent::Forgotten(_) => {}
                    LogEvent::Failed(sentence) => panic!("{sentence}"),
                }
            };
            let FetchResult::Entries(found) = result else {
                // Also if its rows were removed while it waited; rarely, or it would be no use.
                overtaken += usize::from(from > begin && from <= last);
                continue;
            };
            held += 1;
            assert!(from > begin && from <= last, "{group}: {from} is not gone");
            let rest = &model.after(first.prev())[..(to.min(last) - from + 1) as usize];
            assert_eq!(found, rest[..found.len()], "{group}: {from} to {to}");
            let bytes = |entries: &[Entry]| entries.iter().map(|e| e.frame.len() as u64).sum();
            let (got, before): (u64, u64) = (bytes(&found), bytes(&found[..found.len() - 1]));
            assert!(before < bytes_max, "{group}: too much");
            assert!(got >= bytes_max || found.len() == rest.len(), "{group}: too little");
        }
    }
    assert!(held > 500 && overtaken * 20 < held, "{held} held, {overtaken} overtaken");
    log.store.close().unwrap();
}

/// Every image is opened, and what its recovery writes is cut short as well; a part goes on with the
/// workload, or finishes an install, and loses power again.
#[test]
fn f05_whatever_a_power_loss_leaves_opens_with_everything_that_was_reported() {
    let asked = std::env::var("FLOTILLA_CRASH_IMAGES");
    let wanted = asked.map_or(IMAGES, |number| number.parse().expect("a number of images"));
    let mut random = Random::new(1);
    let (mut images, mut lost_some, mut seed) = (0, 0, 0);
    let (mut removed, mut rewrites, mut asked, mut installs) = (0, 0, 0, 0);
    let mut forgotten = 0;
    while images < wanted {
        let config = config(seed);
        let workload = Workload::new(seed, 100);
        let (disk, played) = run(&workload, config);
        removed += played.stats.removed_blobs;
        rewrites += played.stats.rewrites;
        asked += played.checkpoints_wanted;
        forgotten += played.forgotten;
        let steps = disk.steps();
        // Before its first reported write there may be no log at all.
        let first = steps.iter().position(|step| matches!(step, Step::Mark(_))).unwrap();
        let mut points: Vec<usize> =
            (0..60).map(|_| within(&mut random, first..steps.len())).collect();
        points.sort_unstable();
        let mut power = Power::new(&steps);
        for at in points {
            let what = format!("seed {seed}, step {at}");
            let durable = reported(&steps[..=at]);
            let image = power.lost_after(at + 1, &mut random);
            let opened = check_image(&workload, config, image.clone(), durable, &what);
            lost_some += usize::from(durable < workload.submissions.len());

            // And once more, while it recovers.
            let recovery = opened.disk.steps();
            let again = within(&mut random, 0..recovery.len() + 1);
            let torn = crash(&image, &recovery[..again], &mut random);
            check_image(&workload, config, torn, durable, &format!("{what}, then {again}"));
            images += 2;
            if random.below(2) == 0 {
                let image = opened.disk.image();
                let took = check_install(config, &image, &opened.found, &mut random, &what);
                (images, installs) = (images + took, installs + took);
            } else {
                check_further(&workload, config, &opened, &mut random, &what);
                images += 1;
            }
        }
        seed += 1;
    }
    println!(
        "{images} images of {seed} logs; {removed} batches removed, {rewrites} groups written anew, \
         {asked} asked for a checkpoint, {forgotten} forgotten, {installs} installs finished"
    );
    assert!(lost_some * 4 > images, "the crashes came too late to mean anything");
    assert!(removed > 20 * seed && rewrites > 2 * seed && installs > 0, "nothing was collected");
    assert!(forgotten as u64 > seed, "nothing was forgotten");
    assert!(asked > 0 || seed < 2, "no checkpoint was asked for");
}

/// What redb writes when it opens a file waits until the start is known to go on, and is then made in one go: at each
/// step of that.
#[test]
fn f05_a_power_loss_at_any_step_of_a_start_loses_nothing() {
    let (mut random, mut images) = (Random::new(5), 0);
    for seed in 0..6 {
        let (config, workload) = (config(seed), Workload::new(seed, 100));
        let steps = run(&workload, config).0.steps();
        let first = steps.iter().position(|step| matches!(step, Step::Mark(_))).unwrap();
        let at = within(&mut random, first..steps.len());
        let (durable, what) = (reported(&steps[..=at]), format!("seed {seed}, step {at}"));
        let image = crash(&[], &steps[..=at], &mut random);
        let recovery = check_image(&workload, config, image.clone(), durable, &what).disk.steps();
        assert!(recovery.iter().filter(|step| matches!(step, Step::Sync)).count() > 3, "{what}");
        for again in 0..=recovery.len() {
            let image = crash(&image, &recovery[..again], &mut random);
            let what = format!("{what}, then {again} of {}", recovery.len());
            check_image(&workload, config, image, durable, &what);
            images += 1;
        }
    }
    assert!(images > 100, "only {images} images of starts");
}

/// Goes on with the workload on a log that was recovered, and loses power again.
fn check_further(
    workload: &Workload,
    config: LogStoreConfig,
    opened: &Opened,
    random: &mut Random,
    what: &str,
) {
    let image = opened.disk.image();
    let disk = Disk::with(image.clone());
    let to = workload.submissions.len().min(opened.state + 20);
    let played = play(open(&disk, config).unwrap(), workload, opened.state, to);
    assert_eq!(played.failure, None, "{what}");
    let steps = disk.steps();
    let at = within(random, 0..steps.len() + 1);
    let durable = reported(&steps[..at]).max(opened.state);
    let image = crash(&image, &steps[..at], random);
    let what = format!("{what}, on from {} to step {at}", opened.state);
    check_image(workload, config, image, durable, &what);
}

/// At each growth of the file, and each step from there to the sync behind it.
#[test]
fn f06_a_power_loss_while_the_file_grows_leaves_what_was_reported() {
    let mut random = Random::new(6);
    let mut images = 0;
    for seed in 0..8 {
        let workload = Workload::new(seed, 100);
        let (disk, _) = run(&workload, config(seed));
        let steps = disk.steps();
        images += lost_while_growing(&steps, &mut random, |image, at| {
            let (durable, what) = (reported(&steps[..=at]), format!("seed {seed}, step {at}"));
            check_image(&workload, config(seed), image, durable, &what);
        });
    }
    assert!(images > 100, "only {images} images of a file that grows");
}

#[test]
fn a_power_loss_at_the_very_beginning_leaves_a_log_that_opens_or_says_why_not() {
    let workload = Workload::new(9, 3);
    let (disk, _) = run(&workload, config(0));
    let steps = disk.steps();
    let mut random = Random::new(2);
    for at in 0..steps.len().min(60) {
        let image = crash(&[], &steps[..at], &mut random);
        let disk = Disk::with(image);
        match open(&disk, config(0)) {
            Ok(log) => {
                let found = log.contents();
                let durable = reported(&steps[..at]);
                let fits = workload.states[durable..].iter().any(|state| allows(state, &found));
                assert!(fits, "step {at}");
                log.store.close().unwrap();
            }
            // Only a log that had never been opened may be unreadable.
            Err(error) => assert_eq!(reported(&steps[..at]), 0, "step {at}: {error}"),
        }
    }
}

#[test]
fn f01_f02_after_the_first_error_nothing_is_written_and_nothing_reported() {
    let workload = Workload::new(5, 25);
    let calls = run(&workload, config(0)).0.calls();
    let fresh = Disk::default();
    open(&fresh, config(0)).unwrap().store.close().unwrap();
    let mut failures = 0;
    for fail_at in 0..calls {
        let disk = Disk::failing_at(fresh.image(), fail_at);
        let Ok(log) = open(&disk, config(0)) else { continue };
        let played = play(log, &workload, 0, workload.submissions.len());
        if let Some(sentence) = played.failure {
            assert!(sentence.contains("the simulated disk is broken"), "{sentence}");
            assert_eq!(disk.calls_after_failure(), 0, "written after call {fail_at} failed");
            failures += 1;
        }
        // The commit in doubt may be there or not.
        let what = format!("call {fail_at}");
        check_image(&workload, config(0), disk.image(), played.durable, &what);
    }
    assert!(failures > 10, "only {failures} failures were met");
}

#[test]
fn f07_f08_rot_is_found_or_does_not_matter() {
    let workload = Workload::new(7, 30);
    let image = run(&workload, config(0)).0.image();
    let expected = workload.states.last().unwrap();
    let mut random = Random::new(3);
    let mut found = 0;
    for _ in 0..1500 {
        let mut rotten = image.clone();
        let at = within(&mut random, 0..rotten.len());
        rotten[at] ^= 1 << random.below(8);
        let opened = catch_unwind(AssertUnwindSafe(|| open(&Disk::with(rotten), config(0))));
        match opened.unwrap_or_else(|_| panic!("byte {at}: a panic")) {
            Ok(log) => assert!(allows(expected, &log.contents()), "byte {at}"),
            Err(_) => found += 1,
        }
    }
    assert!(found > 20, "only {found} were found");
}

#[test]
fn f09_a_file_that_was_cut_or_overwritten_is_found_or_does_not_matter() {
    let workload = Workload::new(8, 30);
    let image = run(&workload, config(0)).0.image();
    let expected = workload.states.last().unwrap();
    let mut random = Random::new(4);
    let mut found = 0;
    for round in 0..100 {
        let mut rotten = image.clone();
        let at = within(&mut random, 1..rotten.len());
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
                let from = within(&mut random, 0..rotten.len() - page);
                rotten.copy_within(from..from + page, at);
                "overwritten"
            }
        };
        let opened = catch_unwind(AssertUnwindSafe(|| open(&Disk::with(rotten), config(0))));
        match opened.unwrap_or_else(|_| panic!("{what} at byte {at}: a panic")) {
            Ok(log) => assert!(allows(expected, &log.contents()), "{what} at byte {at}"),
            Err(_) => found += 1,
        }
    }
    assert!(found > 40, "only {found} were found");
}
