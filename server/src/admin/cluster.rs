//! The cluster as its nodes tell of it.

use router::talk::{Said, Talk};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::timeout;

/// How long one node may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Bytes of an answer, at most: far above what a thousand groups make of it.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Entries that a follower may lack: a moment under load.
const BEHIND_MAX: u64 = 1_000;

/// Where the first question goes.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    host: String,
    port: u16,
}

impl Entry {
    /// Of `host:port`; `[::1]:6379` is one too.
    pub(super) fn parse(text: &str) -> Result<Entry, String> {
        let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        match parts {
            Some((host, port)) if !host.is_empty() => {
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                Ok(Entry { host, port })
            }
            _ => Err(format!("--at {text:?} is not host:port")),
        }
    }
}

async fn ask(host: &str, port: u16, commands: &[&[&str]]) -> Result<Vec<Said>, String> {
    let asked = async {
        let mut talk = Talk::open(host, port, ANSWER_BYTES_MAX).await?;
        let mut answers = Vec::new();
        for words in commands {
            answers.push(talk.call(words).await?);
        }
        Ok::<_, std::io::Error>(answers)
    };
    match timeout(ANSWER_MAX, asked).await {
        Ok(Ok(answers)) => match answers.iter().find(|answer| matches!(answer, Said::Error(_))) {
            Some(Said::Error(error)) => Err(format!("{host}:{port} answers {error}")),
            _ => Ok(answers),
        },
        Ok(Err(error)) => Err(format!("{host}:{port} cannot be asked: {error}")),
        Err(_) => Err(format!("{host}:{port} does not answer within {} s", ANSWER_MAX.as_secs())),
    }
}

/// A node that answered.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) node: u64,
    pub(super) host: String,
    pub(super) port: u16,
    /// Groups that it leads.
    pub(super) leads: usize,
    /// When its process began, in seconds since 1970 by its clock, and the number of the process.
    began: (u64, u64),
    info: String,
}

impl Member {
    async fn ask(host: String, port: u16) -> Result<Member, String> {
        let commands: [&[&str]; 2] = [&["INFO", "server", "raft"], &["CLUSTER", "MYID"]];
        let answers = ask(&host, port, &commands).await?;
        let info = answers[0].text().unwrap_or_default().to_owned();
        let number = |name: &str| field_of(&info, name).and_then(|value| value.parse::<u64>().ok());
        let missing = || format!("{host}:{port} is no node of this program");
        let seconds = number("server_time_usec").ok_or_else(missing)? / 1_000_000;
        let uptime = number("uptime_in_seconds").ok_or_else(missing)?;
        let process = number("process_id").ok_or_else(missing)?;
        let began = (seconds.saturating_sub(uptime), process);
        let leads = info.matches(":role=leader,").count();
        Ok(Member { node: 0, host, port, leads, began, info })
    }

    /// Where its clients connect.
    pub(super) fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Whether its process began later than that one, or has another number. Clocks are read in seconds.
    pub(super) fn is_another_process(&self, before: &Member) -> bool {
        self.began.1 != before.began.1 || self.began.0 > before.began.0 + 1
    }
}

/// A group as the node that was asked first tells of it.
#[derive(Clone, Debug)]
struct Group {
    id: u64,
    state: String,
    voters: Vec<u64>,
}

/// The cluster at one moment, about.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) members: Vec<Member>,
    groups: Vec<Group>,
    /// Nodes that do not answer, and why.
    silent: Vec<String>,
}

impl Picture {
    /// Asks one for all, and then each.
    pub(super) async fn take(entry: &Entry) -> Result<Picture, String> {
        let commands: [&[&str]; 2] = [&["CLUSTER", "NODES"], &["CLUSTER", "GROUPS"]];
        let answers = ask(&entry.host, entry.port, &commands).await?;
        let (ids, groups) = groups_of(&answers[1])
            .ok_or(format!("{}:{} does not tell of groups", entry.host, entry.port))?;
        let (mut members, mut silent) = (Vec::new(), Vec::new());
        for line in answers[0].text().unwrap_or_default().lines() {
            let Some((id, host, port)) = place_of(line) else { continue };
            let host = if host.is_empty() { entry.host.clone() } else { host };
            // One that has no seat serves nobody, and may be down.
            let Some(node) = ids.get(id).copied() else { continue };
            match Member::ask(host, port).await {
                Ok(member) => members.push(Member { node, ..member }),
                Err(why) => silent.push(format!("node {node}: {why}")),
            }
        }
        members.sort_by_key(|member| member.node);
        Ok(Picture { members, groups, silent })
    }

    pub(super) fn member(&self, node: u64) -> Option<&Member> {
        self.members.iter().find(|member| member.node == node)
    }

    /// What keeps it from being whole.
    pub(super) fn lacks(&self) -> Vec<String> {
        let mut lacks = self.silent.clone();
        for group in &self.groups {
            if group.state != "settled" {
                lacks.push(format!("group {} is {}", group.id, group.state));
            }
            let leads = format!("raft_group_{}:role=leader,", group.id);
            let leaders: Vec<&Member> =
                self.members.iter().filter(|member| member.info.contains(&leads)).collect();
            let [leader] = leaders[..] else {
                lacks.push(format!("group {} has {} leaders", group.id, leaders.len()));
                continue;
            };
            for voter in group.voters.iter().filter(|voter| **voter != leader.node) {
                lacks.extend(follower_lacks(&leader.info, group.id, *voter));
            }
        }
        lacks
    }

    /// For people.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for member in &self.members {
            lines.push(format!(
                "node {} at {}: leads {} groups",
                member.node,
                member.address(),
                member.leads
            ));
        }
        for group in &self.groups {
            let voters: Vec<String> = group.voters.iter().map(u64::to_string).collect();
            let leads = format!("raft_group_{}:role=leader,", group.id);
            let leader = self.members.iter().find(|member| member.info.contains(&leads));
            let leader = leader.map_or("nobody".into(), |member| format!("node {}", member.node));
            lines.push(format!(
                "group {} on nodes {}: {}, led by {leader}",
                group.id,
                voters.join(" "),
                group.state
            ));
        }
        let lacks = self.lacks();
        if lacks.is_empty() {
            lines.push("whole: any one node may stop".into());
        }
        lines.extend(lacks.iter().map(|lack| format!("not whole: {lack}")));
        lines
    }
}

/// What keeps a follower from taking its leader's place.
fn follower_lacks(info: &str, group: u64, voter: u64) -> Option<String> {
    let line = field_of(info, &format!("raft_follower_{group}_{voter}"));
    let Some(line) = line else {
        return Some(format!("node {voter} does not follow in group {group} yet"));
    };
    let of = |name: &str| part_of(line, name);
    if of("state") != Some("up") {
        let state = of("state").unwrap_or("unknown");
        return Some(format!("node {voter} is {state} for the leader of group {group}"));
    }
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok());
    let last = number(
        field_of(info, &format!("raft_group_{group}")).and_then(|line| part_of(line, "last")),
    );
    match (last, number(of("match"))) {
        (Some(last), Some(matched)) if last.saturating_sub(matched) <= BEHIND_MAX => None,
        (Some(last), Some(matched)) => {
            let behind = last.saturating_sub(matched);
            Some(format!("node {voter} is {behind} entries behind in group {group}"))
        }
        _ => Some(format!("node {voter} has nothing of group {group} yet")),
    }
}

/// Of `name:value` lines.
fn field_of<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

/// Of `name=value,name=value`.
fn part_of<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

/// Id, host and port of a line of CLUSTER NODES.
fn place_of(line: &str) -> Option<(&str, String, u16)> {
    let mut words = line.split(' ');
    let (id, address) = (words.next()?, words.next()?);
    let address = address.split('@').next()?;
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some((id, host, port.parse().ok()?))
}

/// The numbers of the nodes that have a seat, by id, and the groups.
fn groups_of(said: &Said) -> Option<(BTreeMap<String, u64>, Vec<Group>)> {
    let (mut ids, mut groups) = (BTreeMap::new(), Vec::new());
    let number = |said: &Said| match said {
        Said::Integer(number) => u64::try_from(*number).ok(),
        _ => None,
    };
    for row in said.items() {
        let id = number(row.field("group")?)?;
        let state = row.field("state")?.text()?.to_owned();
        let mut voters = Vec::new();
        for member in row.field("members")?.items() {
            let node = number(member.field("node")?)?;
            ids.insert(member.field("id")?.text()?.to_owned(), node);
            if member.field("wanted").and_then(number) == Some(1) {
                voters.push(node);
            }
        }
        groups.push(Group { id, state, voters });
    }
    Some((ids, groups))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "uptime_in_seconds:7\r\nraft_group_1:role=leader,term=3,last=5000,commit=5000\r\n\
        raft_follower_1_2:match=4000,sending=replicate,state=up\r\n\
        raft_follower_1_3:match=3999,sending=replicate,state=up\r\n\
        raft_follower_1_4:match=5000,sending=probe,state=down\r\n";

    #[test]
    fn a_follower_lacks_what_keeps_it_from_the_place_of_its_leader() {
        let lacks = |voter| follower_lacks(INFO, 1, voter);
        assert_eq!(lacks(2), None);
        assert_eq!(lacks(3).as_deref(), Some("node 3 is 1001 entries behind in group 1"));
        assert_eq!(lacks(4).as_deref(), Some("node 4 is down for the leader of group 1"));
        assert_eq!(lacks(5).as_deref(), Some("node 5 does not follow in group 1 yet"));
    }

    #[test]
    fn a_place_is_read_with_and_without_brackets_and_host() {
        let place = |text| place_of(text).map(|(_, host, port)| (host, port));
        assert_eq!(place("ab 10.0.0.1:7@17 master -"), Some(("10.0.0.1".into(), 7)));
        assert_eq!(place("ab [::1]:7@17 master -"), Some(("::1".into(), 7)));
        assert_eq!(place("ab :7@17 myself"), Some((String::new(), 7)));
        assert_eq!(place("ab"), None);
        assert!(Entry::parse("h").is_err() && Entry::parse(":1").is_err());
        assert!(Entry::parse("h:70000").is_err());
    }
}
