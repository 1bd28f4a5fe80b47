//! Redis' glob patterns (`stringmatchlen`), without its recursion.

/// Whether the text matches the pattern: `*`, `?`, `[a-z]`, `[^a]`, `\` quotes. Case counts. Takes
/// time of pattern times text at most: only the last `*` is ever gone back to, which is enough.
pub fn glob_match(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, t));
            p += 1;
        } else if let Some(next) = one(&pattern[p..], text[t]) {
            p += next;
            t += 1;
        } else if let Some((after, from)) = star {
            star = Some((after, from + 1));
            (p, t) = (after, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// How many bytes of the pattern match this one byte of text, if they do.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'\\', quoted, ..] => (*quoted == byte).then_some(2),
        [b'[', class @ ..] => {
            let (length, matches) = in_class(class, byte);
            matches.then_some(length + 1)
        }
        [literal, ..] => (*literal == byte).then_some(1),
    }
}

/// The length of the class with its `]`, and whether the byte is in it. Without `]` the class ends
/// with the pattern.
fn in_class(class: &[u8], byte: u8) -> (usize, bool) {
    let negated = class.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    loop {
        match &class[at..] {
            [] => return (at, found != negated),
            [b']', ..] => return (at + 1, found != negated),
            [b'\\', quoted, ..] => {
                found |= *quoted == byte;
                at += 2;
            }
            [low, b'-', high, ..] => {
                found |= (*low.min(high)..=*low.max(high)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= *literal == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, matches) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("max*", "maxclients", true),
            ("*ve", "save", true),
            ("s?ve", "save", true),
            ("s[a-c]ve", "save", true),
            ("s[^a]ve", "save", false),
            ("s[c-a]ve", "save", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyyd", false),
            ("[abc", "c", true),
            ("[", "a", false),
        ] {
            assert_eq!(
                glob_match(pattern.as_bytes(), text.as_bytes()),
                matches,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn b58_many_stars_take_bounded_time() {
        let pattern = b"*a".repeat(5_000);
        assert!(!glob_match(&pattern, &[b'a'; 4_000]));
        assert!(glob_match(&pattern, &[b'a'; 5_000]));
    }
}
