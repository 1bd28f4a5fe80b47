//! What an answer says of its command: the table of `docs/guarantees.md` and the program have the same sentences, and
//! say the same of each.

use crate::backend::Refusal;
use crate::barrier::PARTLY_DONE;
use crate::commands::token::{BAD_NAME, BEHIND_MOVED, NO_WRITE, REFUSED_BEFORE};
use crate::reply::{UNFIT_ANSWER, op_error_text, refusal_text};
use shard_core::op::{ExpiryCommand, OpError};
use shard_core::slot::Slot;
use std::collections::BTreeMap;
use std::path::Path;

/// Whether the command was executed, as the table words it.
type Executed = &'static str;
const NO: Executed = "no";
const YES: Executed = "yes";
const IN_PART: Executed = "in part";
const UNKNOWN: Executed = "unknown";

/// What a refusal says, and the one after it: the compiler asks here for each that is added.
fn of_refusal(refusal: Refusal) -> (Executed, Option<Refusal>) {
    match refusal {
        Refusal::ClusterDown => (NO, Some(Refusal::SlotNotServed)),
        Refusal::SlotNotServed => (NO, Some(Refusal::Moving { slot: Slot(3999) })),
        Refusal::Moving { .. } => (NO, Some(Refusal::Overloaded)),
        Refusal::Overloaded => (NO, Some(Refusal::OlderNode)),
        Refusal::OlderNode => (NO, Some(Refusal::TooBig)),
        Refusal::TooBig => (NO, Some(Refusal::Unknown { waited_ms: 5000 })),
        Refusal::Unknown { .. } => (UNKNOWN, None),
    }
}

/// The same of what ops answer.
fn of_error(error: OpError) -> (Executed, Option<OpError>) {
    match error {
        OpError::WrongType => (NO, Some(OpError::NotAnInteger)),
        OpError::NotAnInteger => (NO, Some(OpError::Overflow)),
        OpError::Overflow => (NO, Some(OpError::StringTooLong)),
        OpError::StringTooLong => (NO, Some(OpError::InvalidExpireTime(ExpiryCommand::Set))),
        OpError::InvalidExpireTime(_) => (NO, Some(OpError::OutOfMemory)),
        OpError::OutOfMemory => (NO, Some(OpError::NoRoom)),
        OpError::NoRoom => (NO, Some(OpError::TokensFull)),
        OpError::TokensFull => (NO, Some(OpError::TokenReused)),
        OpError::TokenReused => (NO, Some(OpError::TokenReplyGone)),
        OpError::TokenReplyGone => (YES, None),
    }
}

/// All that a command on keys can be answered instead of a value, but what its parser says of its words.
fn of_the_program() -> BTreeMap<String, Executed> {
    let mut all = BTreeMap::new();
    let mut next = Some(Refusal::ClusterDown);
    while let Some(refusal) = next {
        let (executed, after) = of_refusal(refusal);
        all.insert(refusal_text(&refusal).into_owned(), executed);
        next = after;
    }
    let mut next = Some(OpError::WrongType);
    while let Some(error) = next {
        let (executed, after) = of_error(error);
        all.insert(op_error_text(error).into_owned(), executed);
        next = after;
    }
    let of_tokens = [BAD_NAME, NO_WRITE, REFUSED_BEFORE, BEHIND_MOVED];
    all.extend(of_tokens.map(|text| (text.into_owned(), NO)));
    all.insert(PARTLY_DONE.into(), IN_PART);
    all.insert(UNFIT_ANSWER.into(), UNKNOWN);
    all
}

/// The sentences of the table, each with the second column.
fn of_the_table() -> BTreeMap<String, &'static str> {
    let (_, table) = include_str!("../../docs/guarantees.md")
        .split_once("| answer | executed |")
        .expect("it is there");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let mut all = BTreeMap::new();
    for row in rows {
        let [_, answers, executed, ..] = row.split('|').collect::<Vec<_>>()[..] else {
            panic!("{row}");
        };
        for sentence in answers.split('`').skip(1).step_by(2) {
            let sentence = sentence.strip_prefix('-').expect("an error").to_owned();
            assert_eq!(all.insert(sentence, executed.trim()), None, "twice: {row}");
        }
    }
    all
}

/// How sentences begin in the source that have a code of an outcome, or say that nothing was executed.
fn in_the_source(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("the source") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        if path.is_dir() {
            in_the_source(&path, found);
        } else if !["tests.rs", "outcomes.rs", "read_tests.rs", "model.rs"].contains(&name) {
            let text = std::fs::read_to_string(&path).expect("a source");
            let shipped = text.split("#[cfg(test)]\nmod tests {").next().expect("the first part");
            let literals = shipped.split('"').skip(1);
            found.extend(literals.filter(|text| is_outcome(text)).map(beginning));
        }
    }
}

fn is_outcome(literal: &str) -> bool {
    let codes = ["TIMEOUT ", "TRYAGAIN ", "CLUSTERDOWN ", "OOM ", "MISCONF "];
    codes.iter().any(|code| literal.starts_with(code))
        || (literal.contains("nothing was executed") && literal.starts_with("ERR "))
}

/// What stands before what is filled in, or before the end of the line.
fn beginning(literal: &str) -> String {
    literal.split(['{', '\\']).next().expect("the first part").to_owned()
}

#[test]
fn each_answer_is_in_the_table_of_the_guarantees_and_says_what_it_says_there() {
    let (table, program) = (of_the_table(), of_the_program());
    for (sentence, executed) in &program {
        assert_eq!(table.get(sentence), Some(executed), "the table says otherwise of: {sentence}");
    }
    let mut source = Vec::new();
    in_the_source(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut source);
    assert!(source.len() > 10, "{source:?}");
    for beginning in &source {
        let known = table.keys().any(|sentence| sentence.starts_with(beginning));
        assert!(known, "the table lacks: {beginning}");
    }
    for sentence in table.keys().filter(|sentence| !program.contains_key(*sentence)) {
        let known = source.iter().any(|beginning| sentence.starts_with(beginning));
        assert!(known, "no answer of this program: {sentence}");
    }
}
