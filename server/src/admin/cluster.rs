//! The cluster as its nodes tell of it.

use super::contact::{Contact, Place};
use super::moves::{Moves, count};
use router::talk::Said;
use serde::Serialize;
use std::collections::BTreeMap;

/// Entries that a follower may lack: a moment under load.
const BEHIND_MAX: u64 = 1_000;

/// A node that answered.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Member {
    pub(super) node: u64,
    /// Where its clients connect.
    pub(super) address: String,
    /// Groups that it leads.
    pub(super) leads: Vec<u64>,
    #[serde(skip)]
    pub(super) place: Place,
    /// When its process began, in seconds since 1970 by its clock, and the number of the process.
    #[serde(skip)]
    began: (u64, u64),
    #[serde(skip)]
    info: String,
}

impl Member {
    async fn ask(node: u64, id: &str, place: Place) -> Result<Member, String> {
        let commands: [&[&str]; 2] = [&["INFO", "server", "raft"], &["CLUSTER", "MYID"]];
        let answers = place.ask(&commands).await;
        let answers = answers.map_err(|failure| failure.by(&place))?;
        if answers[1].text() != Some(id) {
            return Err(format!("another node answers at {place}"));
        }
        let info = answers[0].text().unwrap_or_default().to_owned();
        let number = |name: &str| field_of(&info, name).and_then(|value| value.parse::<u64>().ok());
        let missing = || format!("{place} is no node of this program");
        let seconds = number("server_time_usec").ok_or_else(missing)? / 1_000_000;
        let uptime = number("uptime_in_seconds").ok_or_else(missing)?;
        let process = number("process_id").ok_or_else(missing)?;
        let began = (seconds.saturating_sub(uptime), process);
        let (address, leads) = (place.to_string(), led(&info));
        Ok(Member { node, address, leads, place, began, info })
    }

    /// Whether its process began later than that one, or has another number. Clocks are read in seconds.
    pub(super) fn is_another_process(&self, before: &Member) -> bool {
        self.began.1 != before.began.1 || self.began.0 > before.began.0 + 1
    }
}

/// A node that does not.
#[derive(Clone, Debug, Serialize)]
struct Silent {
    node: u64,
    why: String,
}

/// One who has a seat in a group, or is to have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    node: u64,
    id: String,
    /// As a voter or a learner.
    has: bool,
    is_wanted: bool,
}

impl Seat {
    /// Whether this is the node of a number or a name of 40 digits.
    fn is_of(&self, name: &str) -> bool {
        self.id == name || self.node.to_string() == name
    }
}

/// A group, as whoever was asked tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Group {
    #[serde(rename = "group")]
    pub(super) id: u64,
    pub(super) state: String,
    weight: u64,
    /// How many it owns; None: a node of an older version does not tell.
    pub(super) slots: Option<u64>,
    /// The one node that says that it leads.
    pub(super) leader: Option<u64>,
    /// Those that are to be voters.
    pub(super) voters: Vec<u64>,
    #[serde(skip)]
    seats: Vec<Seat>,
    /// What keeps it from bearing the loss of a node.
    #[serde(skip)]
    lacks: Vec<String>,
}

impl Group {
    /// Whether one node has its seat still, or is to have it, or another has not come into its own yet.
    fn awaits(&self, old: &str, new: &str) -> bool {
        let seat = |name: &str| self.seats.iter().find(|seat| seat.is_of(name));
        seat(old).is_some_and(|seat| seat.has || seat.is_wanted)
            || seat(new).is_some_and(|seat| seat.is_wanted) && self.state != "settled"
    }
}

/// What one node or router knows of the whole.
#[derive(Debug)]
pub(super) struct View {
    pub(super) moves: Moves,
    pub(super) groups: Vec<Group>,
    /// CLUSTER NODES.
    nodes: String,
    pub(super) asked: Place,
}

impl View {
    /// Asks, and learns of more who can be asked.
    pub(super) async fn take(contact: &mut Contact) -> Result<View, String> {
        let commands: [&[&str]; 3] =
            [&["CLUSTER", "NODES"], &["CLUSTER", "REBALANCE", "STATUS"], &["CLUSTER", "GROUPS"]];
        let answers = contact.ask(&commands).await;
        let answers = answers.map_err(|failure| failure.by(contact.place()))?;
        let asked = contact.place().clone();
        let unfit = || format!("{asked} does not tell of groups and moves");
        let nodes = answers[0].text().ok_or_else(unfit)?.to_owned();
        let moves = Moves::of(&answers[1]).ok_or_else(unfit)?;
        let groups = groups_of(&answers[2]).ok_or_else(unfit)?;
        contact.learn(&nodes);
        Ok(View { moves, groups, nodes, asked })
    }

    pub(super) fn group(&self, id: u64) -> Option<&Group> {
        self.groups.iter().find(|group| group.id == id)
    }

    /// The numbers of nodes that have a seat, or are to have one, by their ids.
    fn ids(&self) -> BTreeMap<&str, u64> {
        let seats = self.groups.iter().flat_map(|group| &group.seats);
        seats.map(|seat| (seat.id.as_str(), seat.node)).collect()
    }
}

/// The cluster at one moment, about.
#[derive(Debug, Serialize)]
pub(super) struct Picture {
    /// Whether any one node may stop.
    whole: bool,
    /// What keeps it from being whole.
    pub(super) lacks: Vec<String>,
    #[serde(rename = "nodes")]
    pub(super) members: Vec<Member>,
    silent: Vec<Silent>,
    pub(super) groups: Vec<Group>,
    pub(super) moves: Moves,
}

impl Picture {
    /// Asks one for all, and then each.
    pub(super) async fn take(contact: &mut Contact) -> Result<Picture, String> {
        let view = View::take(contact).await?;
        let lines = view.nodes.lines();
        let places: BTreeMap<&str, Place> =
            lines.filter_map(|line| Place::of_line(line, &view.asked)).collect();
        let (mut members, mut silent) = (Vec::new(), Vec::new());
        // One that has no seat serves nobody, and may be down.
        for (id, node) in view.ids() {
            let asked = match places.get(id) {
                Some(place) => Member::ask(node, id, place.clone()).await,
                None => Err(format!("{} does not tell where it is", view.asked)),
            };
            match asked {
                Ok(member) => members.push(member),
                Err(why) => silent.push(Silent { node, why }),
            }
        }
        members.sort_by_key(|member| member.node);
        silent.sort_by_key(|silent| silent.node);
        let View { moves, groups, .. } = view;
        let mut picture =
            Picture { whole: false, lacks: Vec::new(), members, silent, groups, moves };
        picture.judge();
        Ok(picture)
    }

    /// Finds leaders, and what is not as it should be.
    fn judge(&mut self) {
        for group in &mut self.groups {
            if group.state != "settled" {
                group.lacks.push(format!("group {} is {}", group.id, group.state));
            }
            let leads = |member: &&Member| member.leads.contains(&group.id);
            let leaders: Vec<&Member> = self.members.iter().filter(leads).collect();
            let [leader] = leaders[..] else {
                group.lacks.push(format!("group {} has {} leaders", group.id, leaders.len()));
                continue;
            };
            group.leader = Some(leader.node);
            for voter in group.voters.iter().filter(|voter| **voter != leader.node) {
                let own = self.members.iter().find(|member| member.node == *voter);
                let own = own.map(|member| member.info.as_str());
                group.lacks.extend(follower_lacks(&leader.info, own, group.id, *voter));
            }
        }
        let silent = self.silent.iter().map(|Silent { node, why }| format!("node {node}: {why}"));
        let of_groups = self.groups.iter().flat_map(|group| group.lacks.iter().cloned());
        self.lacks = silent.chain(of_groups).collect();
        self.whole = self.lacks.is_empty();
    }

    pub(super) fn member(&self, node: u64) -> Option<&Member> {
        self.members.iter().find(|member| member.node == node)
    }

    /// What is missing until the seats of one node are another's; nodes by number or id.
    pub(super) fn replaced_lacks(&self, old: &str, new: &str) -> Option<String> {
        let group = self.groups.iter().find(|group| group.awaits(old, new))?;
        Some(match group.lacks.is_empty() {
            true => format!("group {} is {}", group.id, group.state),
            false => group.lacks.join("; "),
        })
    }

    /// For people.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for Member { node, address, leads, .. } in &self.members {
            let leads = count(leads.len() as u64, "group");
            lines.push(format!("node {node} at {address}: leads {leads}"));
        }
        for group in &self.groups {
            let voters: Vec<String> = group.voters.iter().map(u64::to_string).collect();
            let leader = group.leader.map_or("nobody".into(), |node| format!("node {node}"));
            let slots = group.slots.filter(|_| group.id > 0);
            let slots = slots.map_or(String::new(), |slots| format!(", {}", count(slots, "slot")));
            let (id, voters, state) = (group.id, voters.join(" "), &group.state);
            lines.push(format!("group {id} on nodes {voters}: {state}, led by {leader}{slots}"));
        }
        if self.moves.slots_to_move > 0 {
            lines.push(self.moves.line());
        }
        if self.whole {
            lines.push("whole: any one node may stop".into());
        }
        lines.extend(self.lacks.iter().map(|lack| format!("not whole: {lack}")));
        lines
    }
}

/// What keeps a follower from taking its leader's place, as the leader tells and it does itself.
fn follower_lacks(info: &str, own: Option<&str>, group: u64, voter: u64) -> Option<String> {
    let line = field_of(info, &format!("raft_follower_{group}_{voter}"));
    let Some(line) = line else {
        return Some(format!("node {voter} does not follow in group {group} yet"));
    };
    let of = |name: &str| part_of(line, name);
    if of("state") != Some("up") {
        let state = of("state").unwrap_or("unknown");
        return Some(format!("node {voter} is {state} for the leader of group {group}"));
    }
    let replica = format!("raft_group_{group}");
    let installs = own.and_then(|own| part_of(field_of(own, &replica)?, "installing")) == Some("1");
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok());
    let last = number(field_of(info, &replica).and_then(|line| part_of(line, "last")));
    match (of("sending"), last, number(of("match"))) {
        (Some("snapshot"), ..) => Some(format!("node {voter} gets a snapshot in group {group}")),
        _ if installs => Some(format!("node {voter} installs a snapshot in group {group}")),
        (_, Some(last), Some(matched)) if last.saturating_sub(matched) > BEHIND_MAX => {
            let behind = last.saturating_sub(matched);
            Some(format!("node {voter} is {behind} entries behind in group {group}"))
        }
        (Some("replicate"), Some(_), Some(_)) => None,
        (Some(_), Some(_), Some(_)) => {
            Some(format!("node {voter} has not told yet where its log ends in group {group}"))
        }
        _ => Some(format!("node {voter} has nothing of group {group} yet")),
    }
}

/// The groups that a node leads.
fn led(info: &str) -> Vec<u64> {
    let group = |line: &str| {
        let (group, replica) = line.strip_prefix("raft_group_")?.split_once(':')?;
        replica.starts_with("role=leader,").then(|| group.parse().ok())?
    };
    info.lines().filter_map(group).collect()
}

/// Of `name:value` lines.
fn field_of<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

/// Of `name=value,name=value`.
fn part_of<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

/// Of CLUSTER GROUPS.
fn groups_of(said: &Said) -> Option<Vec<Group>> {
    let number = |said: &Said, name: &str| said.field(name)?.number();
    let text = |said: &Said, name: &str| Some(said.field(name)?.text()?.to_owned());
    let seat = |member: &Said| {
        let has = member.field("role")?.text()? != "none";
        let is_wanted = number(member, "wanted")? == 1;
        Some(Seat { node: number(member, "node")?, id: text(member, "id")?, has, is_wanted })
    };
    let group = |row: &Said| {
        let seats: Option<Vec<Seat>> = row.field("members")?.items().iter().map(seat).collect();
        let seats = seats?;
        let voters = seats.iter().filter(|seat| seat.is_wanted).map(|seat| seat.node).collect();
        Some(Group {
            id: number(row, "group")?,
            state: text(row, "state")?,
            weight: number(row, "weight")?,
            slots: number(row, "slots"),
            leader: None,
            voters,
            seats,
            lacks: Vec::new(),
        })
    };
    said.items().iter().map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "uptime_in_seconds:7\r\nraft_group_1:role=leader,term=3,last=5000,commit=5000\r\n\
        raft_group_2:role=follower,term=3,last=5000\r\n\
        raft_follower_1_2:match=4000,sending=replicate,state=up\r\n\
        raft_follower_1_3:match=3999,sending=replicate,state=up\r\n\
        raft_follower_1_4:match=5000,sending=probe,state=down\r\n\
        raft_follower_1_6:match=4990,sending=snapshot,state=up\r\n\
        raft_follower_1_7:match=5000,sending=probe,state=up\r\n";

    #[test]
    fn a_follower_lacks_what_keeps_it_from_the_place_of_its_leader() {
        let lacks = |voter| follower_lacks(INFO, None, 1, voter);
        assert_eq!(lacks(2), None);
        assert_eq!(lacks(3).as_deref(), Some("node 3 is 1001 entries behind in group 1"));
        assert_eq!(lacks(4).as_deref(), Some("node 4 is down for the leader of group 1"));
        assert_eq!(lacks(5).as_deref(), Some("node 5 does not follow in group 1 yet"));
        assert_eq!(lacks(6).as_deref(), Some("node 6 gets a snapshot in group 1"));
        let probed = "node 7 has not told yet where its log ends in group 1";
        assert_eq!(lacks(7).as_deref(), Some(probed));
        let own = |installing| format!("raft_group_1:role=follower,installing={installing}\r\n");
        assert_eq!(follower_lacks(INFO, Some(&own(0)), 1, 2), None);
        let installs = follower_lacks(INFO, Some(&own(1)), 1, 2);
        assert_eq!(installs.as_deref(), Some("node 2 installs a snapshot in group 1"));
        assert_eq!(led(INFO), [1]);
    }

    fn group(state: &str, seats: &[(u64, bool, bool)]) -> Group {
        let seat = |(node, has, is_wanted): &(u64, bool, bool)| Seat {
            node: *node,
            id: format!("id{node}"),
            has: *has,
            is_wanted: *is_wanted,
        };
        let seats: Vec<Seat> = seats.iter().map(seat).collect();
        let (state, voters, lacks) = (state.to_owned(), Vec::new(), Vec::new());
        Group { id: 1, state, weight: 1, slots: None, leader: None, voters, seats, lacks }
    }

    #[test]
    fn a_node_is_replaced_when_it_has_no_seat_and_the_other_has_its_own() {
        let awaits = |state, seats: &[_]| group(state, seats).awaits("3", "4");
        let (kept, old, new) = ((1, true, true), (3, true, false), (4, false, true));
        assert!(awaits("waiting", &[kept, old, new]));
        assert!(awaits("settled", &[kept, (3, true, true)]), "not told of the wish yet");
        assert!(awaits("catching-up", &[kept, (4, true, true)]));
        assert!(!awaits("settled", &[kept, (4, true, true)]));
        assert!(!awaits("catching-up", &[kept, (5, true, true)]), "nothing to do with them");
        assert!(group("settled", &[kept, old]).awaits("id3", "id4"), "by their ids");
    }

    /// Nodes with this INFO, a group on them with these voters, and nodes that do not answer.
    fn picture(infos: &[(u64, &str)], voters: &[u64], silent: &[u64]) -> Picture {
        let member = |(node, info): &(u64, &str)| Member {
            node: *node,
            address: format!("h{node}:1"),
            leads: led(info),
            place: Place { host: format!("h{node}"), port: 1 },
            began: (0, 0),
            info: (*info).to_owned(),
        };
        let members = infos.iter().map(member).collect();
        let silent = silent.iter().map(|node| Silent { node: *node, why: "it is away".into() });
        let voters = voters.to_vec();
        let group = Group { voters, slots: Some(1), ..group("settled", &[]) };
        let mut picture = Picture {
            whole: false,
            lacks: Vec::new(),
            members,
            silent: silent.collect(),
            groups: vec![group],
            moves: Moves::default(),
        };
        picture.judge();
        picture
    }

    #[test]
    fn a_cluster_is_whole_with_one_leader_and_followers_that_lack_nothing() {
        let follower = "raft_group_1:role=follower,installing=0\r\n";
        let whole = picture(&[(1, INFO), (2, follower)], &[1, 2], &[]);
        let lines = [
            "node 1 at h1:1: leads 1 group",
            "node 2 at h2:1: leads 0 groups",
            "group 1 on nodes 1 2: settled, led by node 1, 1 slot",
            "whole: any one node may stop",
        ];
        assert_eq!(whole.lines(), lines);
        assert!(whole.whole);
        let lacks = |infos: &[_], silent: &[u64]| picture(infos, &[1, 2, 3], silent).lacks;
        let behind = "node 3 is 1001 entries behind in group 1";
        assert_eq!(lacks(&[(1, INFO), (2, follower)], &[3]), ["node 3: it is away", behind]);
        assert_eq!(lacks(&[(1, INFO), (2, INFO)], &[]), ["group 1 has 2 leaders"]);
        assert_eq!(lacks(&[(2, follower)], &[]), ["group 1 has 0 leaders"]);
        let two = picture(&[(1, INFO), (2, INFO)], &[1, 2], &[]);
        let lines = two.lines();
        assert_eq!(lines[2], "group 1 on nodes 1 2: settled, led by nobody, 1 slot");
        assert_eq!(lines[3..], ["not whole: group 1 has 2 leaders"]);
        assert_eq!(two.groups[0].leader, None);
    }

    #[test]
    fn groups_are_read_with_their_seats_and_no_slots_from_an_older_node() {
        let text = |text: &str| Said::Text(text.into());
        let member = Said::Items(vec![
            text("node"),
            Said::Integer(3),
            text("id"),
            text("id3"),
            text("role"),
            text("learner"),
            text("wanted"),
            Said::Integer(1),
        ]);
        let mut fields = vec![
            text("group"),
            Said::Integer(1),
            text("weight"),
            Said::Integer(2),
            text("state"),
            text("joint"),
            text("members"),
            Said::Items(vec![member]),
        ];
        let read = |fields: &[Said]| groups_of(&Said::Items(vec![Said::Items(fields.to_vec())]));
        let groups = read(&fields).expect("a group");
        let mut wanted = group("joint", &[(3, true, true)]);
        (wanted.weight, wanted.voters) = (2, vec![3]);
        assert_eq!(groups, [wanted]);
        fields.extend([text("slots"), Said::Integer(7)]);
        assert_eq!(read(&fields).expect("a group")[0].slots, Some(7));
        assert_eq!(read(&fields[2..]), None);
    }
}
