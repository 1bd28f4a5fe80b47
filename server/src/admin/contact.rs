//! Who is asked: the node or router that was named and, when that is away, another one of its cluster.

use router::talk::{Said, Talk};
use std::fmt;
use std::io;
use std::time::Duration;
use tokio::time::timeout;

/// How long one may take to answer. A node tells by then that it cannot answer, unless its `--request-timeout` is longer;
/// then another one is asked.
const ANSWER_MAX: Duration = Duration::from_secs(8);
/// Bytes of an answer, at most: far above what a thousand groups make of it.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Where a node or router serves clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) host: String,
    pub(super) port: u16,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nobody is there, or whoever is answers no such questions.
    Silent(String),
    /// The sentence of a server that refuses, without the word `ERR`.
    Refused(String),
}

impl Failure {
    /// With who it was that refused, for a question that is never refused.
    pub(super) fn by(&self, place: &Place) -> String {
        match self {
            Failure::Silent(why) => why.clone(),
            Failure::Refused(said) => format!("{place} answers {said}"),
        }
    }

    /// Whether the same question may be answered a moment later.
    pub(super) fn is_for_now(&self) -> bool {
        let codes = ["TIMEOUT ", "TRYAGAIN ", "CLUSTERDOWN "];
        let ends = ["try again", "wait until they are moved away"];
        match self {
            Failure::Silent(_) => true,
            Failure::Refused(said) => {
                codes.iter().any(|code| said.starts_with(code))
                    || ends.iter().any(|end| said.ends_with(end))
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Silent(why) | Failure::Refused(why) => f.write_str(why),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Place {
    /// Of `host:port`; `[::1]:6379` is one too.
    fn parse(text: &str) -> Option<Place> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Some(Place { host, port: port.parse().ok()? })
    }

    /// Id and place of a line of CLUSTER NODES. A node that does not know its own host is at that of the one
    /// who was asked.
    pub(super) fn of_line<'a>(line: &'a str, asked: &Place) -> Option<(&'a str, Place)> {
        let mut words = line.split(' ');
        let (id, address) = (words.next()?, words.next()?);
        let place = Place::parse(address.split('@').next()?)?;
        let host = if place.host.is_empty() { asked.host.clone() } else { place.host };
        // Port 0: it has no port of the kind that was asked.
        Some((id, Place { host, port: place.port })).filter(|(_, place)| place.port > 0)
    }

    /// What it answers to these, all of them.
    pub(super) async fn ask(&self, commands: &[&[&str]]) -> Result<Vec<Said>, Failure> {
        let asked = async {
            let mut talk = Talk::open(&self.host, self.port, ANSWER_BYTES_MAX).await?;
            let mut answers = Vec::new();
            for words in commands {
                answers.push(talk.call(words).await?);
            }
            Ok::<_, io::Error>(answers)
        };
        let answers = match timeout(ANSWER_MAX, asked).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => {
                return Err(Failure::Silent(format!("{self} cannot be asked: {error}")));
            }
            Err(_) => {
                let seconds = ANSWER_MAX.as_secs();
                return Err(Failure::Silent(format!("{self} does not answer within {seconds} s")));
            }
        };
        match answers.iter().find(|answer| matches!(answer, Said::Error(_))) {
            Some(Said::Error(error)) => {
                Err(Failure::Refused(error.strip_prefix("ERR ").unwrap_or(error).to_owned()))
            }
            _ => Ok(answers),
        }
    }
}

/// The cluster, by the places where it may be asked.
#[derive(Clone, Debug)]
pub(super) struct Contact {
    /// The one that was named, and then those of the nodes.
    places: Vec<Place>,
    /// Who is asked next.
    at: usize,
}

impl Contact {
    /// Knows one place, `--at`.
    pub(super) fn parse(text: &str) -> Result<Contact, String> {
        let place = Place::parse(text).filter(|place| !place.host.is_empty());
        let place = place.ok_or(format!("--at {text:?} is not host:port"))?;
        Ok(Contact { places: vec![place], at: 0 })
    }

    /// Whether it knows of nobody but the one that was named.
    pub(super) fn is_new(&self) -> bool {
        self.places.len() == 1
    }

    /// Who is asked next.
    pub(super) fn place(&self) -> &Place {
        &self.places[self.at]
    }

    /// Has another one asked: who answered may be cut off from the others.
    pub(super) fn turn(&mut self) {
        self.at = (self.at + 1) % self.places.len();
    }

    /// Takes the places of nodes from CLUSTER NODES, as the one that is asked next told it.
    pub(super) fn learn(&mut self, nodes: &str) {
        let asked = self.place().clone();
        let mut places = vec![self.places[0].clone()];
        for (_, place) in nodes.lines().filter_map(|line| Place::of_line(line, &asked)) {
            if !places.contains(&place) {
                places.push(place);
            }
        }
        self.at = places.iter().position(|place| *place == asked).unwrap_or(0);
        self.places = places;
    }

    /// What the first of them that is there answers, who is asked first the next time, too.
    pub(super) async fn ask(&mut self, commands: &[&[&str]]) -> Result<Vec<Said>, Failure> {
        let mut first = None;
        for _ in 0..self.places.len() {
            match self.place().ask(commands).await {
                Err(Failure::Silent(why)) => {
                    first.get_or_insert(why);
                    self.turn();
                }
                answered => return answered,
            }
        }
        let others = match self.places.len() - 1 {
            0 => String::new(),
            others => format!(", nor {others} other places of the cluster"),
        };
        Err(Failure::Silent(format!("{}{others}", first.unwrap_or_default())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_with_and_without_brackets_and_host() {
        let asked = Place { host: "h".into(), port: 1 };
        let place = |text| Place::of_line(text, &asked).map(|(id, p)| (id, p.to_string()));
        assert_eq!(place("ab 10.0.0.1:7@17 master -"), Some(("ab", "10.0.0.1:7".into())));
        assert_eq!(place("ab [::1]:7@17 master -"), Some(("ab", "[::1]:7".into())));
        assert_eq!(place("ab ::1:7@17 master -"), Some(("ab", "[::1]:7".into())));
        assert_eq!(place("ab :7@17 myself"), Some(("ab", "h:7".into())));
        assert_eq!(place("ab h:0@0 noaddr"), None);
        assert_eq!(place("ab"), None);
        assert!(Contact::parse("h").is_err() && Contact::parse(":1").is_err());
        assert!(Contact::parse("h:70000").is_err());
    }

    #[test]
    fn whoever_was_named_stays_the_first_and_every_place_is_known_once() {
        let mut contact = Contact::parse("router:1").expect("a place");
        contact.learn("a n1:1@2 master\nb n2:1@2 slave\n");
        contact.turn();
        contact.turn();
        assert_eq!(contact.place().to_string(), "n2:1");
        contact.learn("b n2:1@2 master\nc n3:1@2 slave\nd n2:1@2 slave");
        let places: Vec<String> = contact.places.iter().map(Place::to_string).collect();
        assert_eq!(places, ["router:1", "n2:1", "n3:1"]);
        assert_eq!(contact.place().to_string(), "n2:1", "who is asked stays the same");
        contact.learn("c n3:1@2 master");
        assert_eq!(contact.place().to_string(), "router:1", "who is gone is asked no more");
    }

    #[test]
    fn what_passes_by_itself_is_told_from_what_does_not() {
        use shard_core::shardmaster::MasterError as E;
        use shard_core::{GroupId, NodeId};
        let (group, node) = (GroupId(2), NodeId(3));
        let is_for_now = |error: E| Failure::Refused(error.to_string()).is_for_now();
        assert!(is_for_now(E::GroupOwns { group, slots: 5 }));
        assert!(is_for_now(E::GroupMoves { group, moves: 5 }));
        assert!(is_for_now(E::NodeMaySeat { group, node }));
        assert!(!is_for_now(E::GroupAssigned { group, slots: 5 }));
        assert!(!is_for_now(E::LastGroup(group)));
        assert!(Failure::Refused("TIMEOUT the shardmaster did not tell".into()).is_for_now());
    }
}
