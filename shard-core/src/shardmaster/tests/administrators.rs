//! K6: ten who join and leave at once, each without a word to the others.

use super::*;
use std::collections::BTreeSet;

/// One of them: what is still to be asked for, the next last.
struct Person {
    group: GroupId,
    left: Vec<MasterOp>,
    /// The last wish, whose answer may have been lost.
    asked: Option<(MasterRequest, MasterDone)>,
}

/// Persons with an odd number leave again.
fn persons() -> Vec<Person> {
    let person = |number: u32| {
        let group = GroupId(100 + number);
        let (weight, rebalance) = (1, true);
        let voters = (1..=3).map(NodeId).collect();
        let join = MasterOp::CreateGroup { group: Some(group), voters, weight, rebalance };
        let leave = (number % 2 == 1).then_some(MasterOp::DrainGroup { group });
        Person { group, left: leave.into_iter().chain([join]).collect(), asked: None }
    };
    (0..10).map(person).collect()
}

fn at_once(seed: u64) {
    let mut world = World::new(seed);
    let mut persons = persons();
    let mut numbers = world.configs.len();
    let mut request = 0;
    while persons.iter().any(|person| !person.left.is_empty()) {
        if world.below(3) == 0 {
            world.group_reports();
            continue;
        }
        let at = world.below(10) as usize;
        if let Some((again, done)) = persons[at].asked.clone().filter(|_| world.below(3) == 0) {
            assert_eq!(world.ask(again), Ok(done), "a retry is answered as before");
            assert_eq!(world.configs.len(), numbers, "a retry has a number of its own");
            continue;
        }
        let Some(op) = persons[at].left.pop() else { continue };
        request += 1;
        let wish = MasterRequest { id: Some(RequestId(request)), op };
        let done = world.ask(wish.clone()).expect("nobody is in the way of another");
        numbers += 1;
        assert_eq!(done.config.0 as usize, numbers - 1, "one number for each");
        persons[at].asked = Some((wish, done));
    }
    world.end();
    for person in persons.iter().filter(|person| person.group.0 % 2 == 1) {
        let remove = MasterOp::RemoveGroup { group: person.group };
        execute(&mut world.masters[0], remove).expect("it owns nothing any more");
    }
    let config = world.masters[0].newest();
    let first = world.configs[1].groups.keys().copied();
    let asked: BTreeSet<GroupId> =
        first.chain((0..10).step_by(2).map(|n| GroupId(100 + n))).collect();
    assert_eq!(config.groups.keys().copied().collect::<BTreeSet<_>>(), asked);
    let weights = target::weights(config);
    let counts = weights.keys().map(|group| config.ranges_of(*group).map(SlotRange::count).sum());
    let counts: Vec<u32> = counts.collect();
    let (most, least) = (counts.iter().max(), counts.iter().min());
    assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{counts:?}");
}

#[test]
fn k06_ten_who_join_and_leave_at_once_get_exactly_the_groups_that_they_asked_for() {
    (0..6).for_each(at_once);
}
