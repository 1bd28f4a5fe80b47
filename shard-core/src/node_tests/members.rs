//! Members of groups change as the map says, whoever leads, comes and goes.

use super::groups::{five_nodes, ids};
use super::*;
use crate::cluster_config::ConfigNum;
use crate::cluster_map::{GroupMembers, MemberStep};
use crate::map_feed::MapMessage;
use crate::shard_store::Mutant;
use crate::shardmaster::{MasterDone, MasterError, MasterOp, MasterRequest};
use crate::wire::RaftEnvelope;
use raft_core::effects::Reject;
use raft_core::message::{AppendEntriesReply, AppendOutcome, Message};
use raft_core::types::Index;

/// Nodes 1 to 5; the shardmaster is on these.
fn master_on(nodes: &[u64]) -> World {
    let mut config = config();
    for id in 4..=5 {
        let node = NodeConfig { peer: format!("h:{id}"), resp: format!("h:9{id}") };
        config.nodes.insert(NodeId(id), node);
    }
    config.groups.get_mut(&SHARDMASTER).unwrap().voters = ids(nodes);
    let mut world = World::stopped(config, None, 0);
    (1..=5).for_each(|id| world.start(NodeId(id)));
    world.run(2500);
    world
}

impl World {
    /// Tells the shardmaster, and what it answers.
    fn tell(&mut self, op: MasterOp) -> Result<MasterDone, MasterError> {
        let id = 1000 + self.replies.len() as u64;
        let leader = self.leader(SHARDMASTER);
        let request = MasterRequest { id: None, op };
        self.ask(leader, SHARDMASTER, id, RequestBody::Master(request));
        self.run(5);
        match &self.replies[&id] {
            Answer::Master(answer) => answer.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn change(&mut self, group: GroupId, add: &[u64], remove: &[u64]) -> ConfigNum {
        let (add, remove) = (ids(add), ids(remove));
        self.tell(MasterOp::ChangeMembers { group, add, remove }).expect("it can be").config
    }

    /// The map of whoever leads the shardmaster.
    fn map(&self) -> crate::cluster_map::ClusterMap {
        self.nodes[&self.leader(SHARDMASTER)].view().map
    }

    fn reported(&self, group: GroupId) -> GroupMembers {
        self.map().reported_members(group).expect("a report").clone()
    }

    /// Waits until a group has these voters, and has said so.
    fn settle(&mut self, group: GroupId, voters: &[u64]) {
        for _ in 0..300 {
            self.run(50);
            self.check_reports();
            let leads = |node: &Node| node.replica(group).is_some_and(|r| r.leads());
            let up = |id: &NodeId| !self.down.contains(id);
            let masters = self.nodes.iter().filter(|(id, node)| {
                up(id) && node.replica(SHARDMASTER).is_some_and(|r| r.leads())
            });
            let led = self.nodes.iter().filter(|(id, node)| up(id) && leads(node)).count();
            if led != 1 || masters.count() != 1 {
                continue;
            }
            let members = self.map().reported_members(group).cloned();
            if members.is_some_and(|m| m.step == MemberStep::Settled && m.voters == ids(voters)) {
                return self.check_settled(group, voters);
            }
        }
        panic!("group {group} has {:?}", self.map().members.get(&group));
    }

    fn check_settled(&self, group: GroupId, voters: &[u64]) {
        let replica = self.nodes[&self.leader(group)].replica(group).expect("it leads");
        let conf = replica.committed_conf();
        assert_eq!((&conf.voters, conf.learners.len()), (&ids(voters), 0));
        assert_eq!(ConfigNum(conf.follows), self.reported(group).follows);
    }

    /// Nothing is reported that is not committed.
    fn check_reports(&self) {
        let maps = self.nodes.values().map(|node| node.view().map);
        let newest = maps.max_by_key(|map| map.version).expect("a node");
        for group in newest.members.keys() {
            let Some(reported) = newest.reported_members(*group) else { continue };
            let committed = self
                .nodes
                .values()
                .filter_map(|node| GroupMembers::of(node.replica(*group)?.committed_conf()));
            let furthest = committed.map(|members| members.order()).max();
            assert!(furthest >= Some(reported.order()), "{reported:?} is not committed");
        }
    }

    fn transfer(&mut self, group: GroupId, to: NodeId) {
        let leader = self.leader(group);
        if leader != to {
            let id = 1000 + self.replies.len() as u64;
            self.ask(leader, group, id, RequestBody::Transfer { to });
            self.run(50);
        }
        assert_eq!(self.leader(group), to);
    }

    /// An append by whoever leads, and how long the value is then.
    fn append_once(&mut self, seq: u64) {
        let leader = self.leader(G1);
        self.ask(leader, G1, seq, append(seq, b"x"));
        self.run(20);
        assert_eq!(outcome(&self.replies[&seq]), &Outcome::Integer(seq as i64));
    }
}

#[test]
fn m13_a_dead_node_is_replaced_in_every_group_and_forgotten() {
    let mut world = five_nodes();
    world.append_once(1);
    let dead = NodeId(3);
    world.down.insert(dead);
    world.run(4000);
    world.append_once(2);
    world
        .tell(MasterOp::ReplaceNode { old: dead, new: NodeId(4), group: None })
        .expect("it can be");
    let error = world.tell(MasterOp::ForgetNode { node: dead }).expect_err("it is a member still");
    assert!(matches!(error, MasterError::NodeMaySeat { .. }), "{error}");
    world.append_once(3);
    world.settle(G1, &[1, 2, 4]);
    world.settle(SHARDMASTER, &[1, 2, 4]);
    world.append_once(4);
    world.tell(MasterOp::ForgetNode { node: dead }).expect("nobody names it any more");
    // The new member is one: with it and one other there is a majority.
    let leader = world.leader(G1);
    let other = *ids(&[1, 2]).iter().find(|id| **id != leader).expect("another");
    world.down.insert(other);
    world.run(4000);
    world.append_once(5);
}

#[test]
fn groups_grow_and_shrink_though_two_administrators_speak_at_once() {
    let mut world = five_nodes();
    world.append_once(1);
    world.change(G1, &[4], &[]);
    world.change(G1, &[5], &[]);
    world.settle(G1, &[1, 2, 3, 4, 5]);
    world.append_once(2);
    let first = world.change(G1, &[], &[1]);
    let last = world.change(G1, &[], &[5]);
    assert!(first < last);
    world.settle(G1, &[2, 3, 4]);
    assert_eq!(world.reported(G1).follows, last);
    world.append_once(3);
    world.run(3000);
    assert_eq!(world.hosts(G1), ids(&[2, 3, 4]));
    for node in [1, 5] {
        let error = world.tell(MasterOp::ForgetNode { node: NodeId(node) });
        match node {
            1 => assert!(matches!(error, Err(MasterError::NodeSeated { .. })), "{error:?}"),
            _ => assert!(error.is_ok(), "{error:?}"),
        }
    }
}

#[test]
fn m05_m21_leaders_remove_themselves_one_after_another() {
    let mut world = five_nodes();
    world.change(G1, &[4, 5], &[]);
    world.settle(G1, &[1, 2, 3, 4, 5]);
    let mut voters: Vec<u64> = (1..=5).collect();
    for seq in 1..=4 {
        world.append_once(seq);
        let leader = world.leader(G1).0;
        voters.retain(|id| *id != leader);
        world.change(G1, &[], &[leader]);
        world.settle(G1, &voters);
    }
    world.append_once(5);
    // That of the shardmaster, too.
    let leader = world.leader(SHARDMASTER).0;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    world.change(SHARDMASTER, &[], &[leader]);
    world.settle(SHARDMASTER, &others);
}

/// M20: who comes is down, or does not catch up; the wish is changed meanwhile.
#[test]
fn m20_a_change_of_mind_takes_a_plan_back() {
    let mut world = master_on(&[1, 2, 3]);
    world.append_once(1);
    world.down.insert(NodeId(4));
    world.run(4000);
    world.change(G1, &[4], &[3]);
    world.run(3000);
    let none = world.map().reported_members(G1).cloned();
    assert_eq!(none, None, "nothing is written while the one that comes is down");
    world.start(NodeId(4));
    world.settle(G1, &[1, 2, 4]);
    // One whose disk is stuck is a learner, and stays one.
    world.stuck.insert(NodeId(5));
    world.change(G1, &[5], &[1]);
    world.run(500);
    let members = world.reported(G1);
    assert_eq!(members.step, MemberStep::CatchingUp);
    assert_eq!((members.voters, members.learners), (ids(&[1, 2, 4]), ids(&[5])));
    world.append_once(2);
    let last = world.change(G1, &[3], &[5]);
    world.settle(G1, &[2, 3, 4]);
    assert_eq!(world.reported(G1).follows, last);
    world.append_once(3);
    world.tell(MasterOp::ForgetNode { node: NodeId(5) }).expect("it never was a voter");
}

/// M4, M14: whoever leads then goes on, also when all were down.
#[test]
fn m04_m14_a_crash_of_the_leader_at_each_step_ends_in_the_members_that_are_wanted() {
    for step in 0..12 {
        let mut world = five_nodes();
        world.append_once(1);
        let leader = world.leader(G1);
        let op = MasterOp::ChangeMembers {
            group: G1,
            add: ids(&[4, 5]),
            remove: vec![NodeId(leader.0 % 3 + 1)],
        };
        let master = world.leader(SHARDMASTER);
        let request = MasterRequest { id: None, op };
        world.ask(master, SHARDMASTER, 7, RequestBody::Master(request));
        world.run(step);
        world.down.insert(leader);
        world.run(if step % 2 == 0 { 3000 } else { 20 });
        world.start(leader);
        let gone = leader.0 % 3 + 1;
        let mut voters: Vec<u64> = (1..=5).filter(|id| *id != gone).collect();
        if !matches!(world.replies.get(&7), Some(Answer::Master(Ok(_)))) {
            // It died with the wish: it is said again.
            world.run(3000);
            world.change(G1, &[4, 5], &[gone]);
        }
        voters.sort_unstable();
        world.settle(G1, &voters);
        world.append_once(2);
    }
}

/// A leader with an old map has a newer wish in its log.
fn older_map() {
    let mut world = master_on(&[1]);
    world.change(G1, &[4], &[]);
    world.settle(G1, &[1, 2, 3, 4]);
    world.deaf.insert(NodeId(2));
    world.transfer(G1, NodeId(3));
    world.change(G1, &[], &[4]);
    world.settle(G1, &[1, 2, 3]);
    world.tell(MasterOp::ForgetNode { node: NodeId(4) }).expect("it is out");
    world.transfer(G1, NodeId(2));
    let map = world.nodes[&NodeId(2)].view().map;
    assert_eq!(map.config.groups[&G1].voters, ids(&[1, 2, 3, 4]), "it knows the old map alone");
    world.run(4000);
    world.check_settled(G1, &[1, 2, 3]);
}

/// A wish and its opposite, while the group is away: the second is followed, though it changes nobody.
fn to_and_fro() {
    let mut world = master_on(&[1]);
    world.change(G1, &[4], &[1]);
    world.settle(G1, &[2, 3, 4]);
    world.down.extend(ids(&[2, 3, 4]));
    world.change(G1, &[5], &[]);
    let last = world.change(G1, &[], &[5]);
    let forget = MasterOp::ForgetNode { node: NodeId(5) };
    // What was said before the second wish says nothing of it.
    let voters = ids(&[2, 3, 4]);
    let (follows, step) = (ConfigNum(last.0 - 1), MemberStep::Settled);
    let late = GroupMembers { follows, step, voters, learners: Vec::new() };
    let late = MapMessage::Members(G1, Box::new(late));
    world.input(NodeId(1), Input::Map { from: NodeId(3), message: late });
    world.run(20);
    let error = world.tell(forget.clone()).expect_err("somebody may seat it still");
    assert!(matches!(error, MasterError::NodeMaySeat { .. }), "{error}");
    [2, 3, 4].into_iter().for_each(|id| world.start(NodeId(id)));
    world.run(4000);
    world.settle(G1, &[2, 3, 4]);
    assert_eq!(world.reported(G1).follows, last);
    world.tell(forget).expect("nobody can");
}

/// What a group said before comes again.
fn late_report() {
    let mut world = master_on(&[1]);
    world.change(G1, &[4], &[]);
    world.settle(G1, &[1, 2, 3, 4]);
    let before = world.reported(G1);
    world.change(G1, &[], &[4]);
    world.settle(G1, &[1, 2, 3]);
    world.transfer(G1, NodeId(2));
    world.down.extend(ids(&[2, 3, 4]));
    let now = world.reported(G1);
    let late = MapMessage::Members(G1, Box::new(before));
    world.input(NodeId(1), Input::Map { from: NodeId(3), message: late });
    world.run(20);
    assert_eq!(world.reported(G1), now);
}

/// A leader that is cut off writes what nobody else has.
fn uncommitted() {
    let mut world = master_on(&[1]);
    world.transfer(G1, NodeId(1));
    world.down.extend(ids(&[2, 3]));
    world.change(G1, &[], &[3]);
    let conf = world.nodes[&NodeId(1)].replica(G1).expect("it leads").conf().clone();
    assert!(conf.is_joint() || !conf.goal.is_empty(), "it was begun: {conf:?}");
    world.run(20);
    world.check_reports();
    assert_eq!(world.map().reported_members(G1), None);
}

#[test]
fn k13_a_leader_with_an_old_map_does_nothing_against_a_newer_wish() {
    older_map();
}

#[test]
fn a_wish_and_its_opposite_are_followed_before_the_node_is_forgotten() {
    to_and_fro();
}

#[test]
fn what_is_late_or_not_committed_is_not_kept() {
    late_report();
    uncommitted();
}

#[test]
fn each_broken_rule_of_members_is_noticed() {
    each_is_noticed(&[
        (Mutant::OlderWish, older_map),
        (Mutant::FollowsNotNoted, to_and_fro),
        (Mutant::ForgetByOlder, to_and_fro),
        (Mutant::AnyReport, late_report),
        (Mutant::ReportUncommitted, uncommitted),
    ]);
}

/// It leads while nobody else can, since a group without a leader serves nobody.
#[test]
fn an_evacuated_node_leads_nothing_that_another_can_lead() {
    let mut world = five_nodes();
    let node = world.leader(G1);
    world.tell(MasterOp::SetEvacuated { node, evacuated: true }).expect("it is known");
    world.run(200);
    let leads = |world: &World| {
        let replicas = world.nodes[&node].status(world.now).replicas;
        replicas.values().filter(|replica| replica.role == "leader").count()
    };
    assert_eq!(leads(&world), 0);
    world.append_once(1);
    // All are: nothing is handed round.
    for other in ids(&[1, 2, 3]).into_iter().filter(|id| *id != node) {
        world.tell(MasterOp::SetEvacuated { node: other, evacuated: true }).expect("it is known");
    }
    let leader = world.leader(G1);
    world.run(5000);
    assert_eq!(world.leader(G1), leader, "it went on leading");
    // Of two that are left, the one that nobody works on leads in the end.
    world.tell(MasterOp::SetEvacuated { node, evacuated: false }).expect("it is known");
    world.run(200);
    assert_eq!((world.leader(G1), world.leader(SHARDMASTER)), (node, node));
    world.down.insert(node);
    world.run(5000);
    world.append_once(2);
}

/// S14: whoever joins does not know who is in the group before the entry in which it came is applied. A
/// checkpoint of before that would be refused by its next start.
#[test]
fn s14_a_joiner_starts_again_whenever_it_was_asked_for_a_checkpoint() {
    let config = master_on(&[3, 4, 5]).config;
    let mut world = World::stopped(config, Some(snapshots::SMALL), 0);
    (1..=5).for_each(|id| world.start(NodeId(id)));
    world.run(2500);
    (1..=3).for_each(|seq| world.append_once(seq));
    // The entry in which it comes is on its way to everybody, and on no disk but the leader's and its own.
    let leader = world.leader(G1);
    let followers = ids(&[1, 2, 3]).into_iter().filter(|id| *id != leader);
    world.stuck.extend(followers);
    world.change(G1, &[4], &[]);
    world.run(200);
    let joiner = world.nodes[&NodeId(4)].status(world.now).replicas[&G1].clone();
    assert!(joiner.applied > Index(3) && joiner.applied < joiner.last);
    world.input(NodeId(4), Input::CheckpointWanted(G1));
    world.run(5);
    world.stuck.clear();
    world.settle(G1, &[1, 2, 3, 4]);
    world.start(NodeId(4));
    world.run(500);
    world.input(NodeId(4), Input::CheckpointWanted(G1));
    world.run(50);
    let joiner = world.nodes[&NodeId(4)].status(world.now).replicas[&G1].clone();
    assert!(joiner.checkpoint > Index(0), "now it knows");
    world.append_once(4);
}

/// R11: a peer that says what no correct one says is told of in the log, and counted.
#[test]
fn r11_a_match_beyond_the_log_is_refused_and_told() {
    let mut world = five_nodes();
    world.append_once(1);
    let leader = world.leader(G1);
    assert_eq!(world.nodes.get_mut(&leader).unwrap().take_refused(), None);
    let follower = *ids(&[1, 2, 3]).iter().find(|id| **id != leader).unwrap();
    let status = world.nodes[&leader].status(world.now).replicas[&G1].clone();
    let beyond = Index(status.last.0 + 7);
    let reply = AppendEntriesReply {
        term: status.term,
        stamp: 1,
        promised_ns: 0,
        commit: Index(0),
        outcome: AppendOutcome::Accepted { matched: beyond, received: beyond },
    };
    let envelope = RaftEnvelope { group: G1, message: Message::AppendEntriesReply(reply) };
    world.input(leader, Input::Raft { from: follower, envelope });
    let told = world.nodes.get_mut(&leader).unwrap().take_refused();
    let why = Reject::Malformed("a match beyond the leader's log");
    assert_eq!(told, Some((follower, G1, why)));
    world.append_once(2);
}

/// Whoever joined and is not wanted any more before the group could tell it anything goes again.
#[test]
fn a_joiner_that_heard_nothing_goes_when_it_is_not_wanted_any_more() {
    let mut world = master_on(&[3, 4, 5]);
    world.append_once(1);
    // Without a majority nobody leads the group.
    world.down.extend(ids(&[1, 2]));
    world.run(4000);
    world.change(G1, &[4], &[]);
    world.run(2000);
    assert!(world.hosts(G1).contains(&NodeId(4)));
    world.change(G1, &[], &[4]);
    world.run(2000);
    assert!(!world.hosts(G1).contains(&NodeId(4)), "it stays for ever");
    (1..=2).for_each(|id| world.start(NodeId(id)));
    world.settle(G1, &[1, 2, 3]);
    world.append_once(2);
}
