//! What the nodes of a cluster with the shardmaster and two groups tell of their replicas.

use crate::resp::Client;
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

/// One number of each group's line in INFO raft, as the node on `port` tells it.
///
/// # Panics
/// If it does not tell of three groups.
pub fn raft_numbers(port: u16, name: &str) -> BTreeMap<String, u64> {
    let mut client = Client::connect(port).expect("a connection");
    let text = client.call(&["INFO", "raft"]).expect("a reply").text();
    let groups = text.lines().filter_map(|line| line.strip_prefix("raft_group_")?.split_once(':'));
    let numbers: BTreeMap<String, u64> = groups
        .map(|(group, fields)| {
            let field =
                fields.split(',').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
            let number = field.and_then(|number| number.parse().ok());
            (group.to_owned(), number.unwrap_or_else(|| panic!("no {name} in {fields}")))
        })
        .collect();
    assert_eq!(numbers.len(), 3, "the shardmaster and two groups: {text}");
    numbers
}

/// Waits until the node on `port` has applied what was committed on another when this was called.
///
/// # Panics
/// If that takes half a minute.
pub fn wait_until_caught_up(port: u16, other: u16) {
    let committed = raft_numbers(other, "commit");
    let end = Instant::now() + Duration::from_secs(30);
    while raft_numbers(port, "applied").iter().any(|(group, applied)| *applied < committed[group]) {
        assert!(Instant::now() < end, "it has not caught up with {committed:?}");
        thread::sleep(Duration::from_millis(20));
    }
}
