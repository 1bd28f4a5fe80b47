//! Files that people write: read whole, up to a bound, and each mistake in them told in one sentence
//! with its place.

use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Why such a file cannot be used. Each is one sentence that names the file.
#[derive(Debug, thiserror::Error)]
pub enum SmallFileError {
    /// There is none.
    #[error("the file {0} does not exist")]
    Missing(PathBuf),
    /// The operating system refused.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is too large to be one.
    #[error("{path} has more than the {max} bytes that such a file can have")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound.
        max: u64,
    },
    /// It is not TOML, or not of the form that is asked for.
    #[error("{path}, line {line}, column {column}: {message}")]
    Toml {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
}

/// All bytes of a file, if they are no more than `max`.
pub fn read(path: &Path, max: u64) -> Result<Vec<u8>, SmallFileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => SmallFileError::Missing(path.into()),
        _ => SmallFileError::Read { path: path.into(), source },
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    // What the file system says of the length of a device or a pipe is nothing to go by.
    file.take(max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > max {
        return Err(SmallFileError::TooLarge { path: path.into(), max });
    }
    Ok(bytes)
}

/// A TOML file of at most `max` bytes.
pub fn read_toml<T: DeserializeOwned>(path: &Path, max: u64) -> Result<T, SmallFileError> {
    let bytes = read(path, max)?;
    let mistake = |at: usize, message: &str| {
        let before = String::from_utf8_lossy(&bytes[..at.min(bytes.len())]);
        let line = before.rsplit('\n').next().unwrap_or_default();
        SmallFileError::Toml {
            path: path.into(),
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
            message: message.trim_end().replace('\n', ", "),
        }
    };
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| mistake(error.valid_up_to(), "the file is not UTF-8 text"))?;
    toml::from_str(text).map_err(|error| {
        // A mistake without a place is one of the whole file, such as a setting that is missing.
        mistake(error.span().map_or(0, |span| span.start), error.message())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Ship {
        sails: u8,
    }

    #[test]
    fn b103_a_mistake_is_one_sentence_with_file_line_and_column() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ship.toml");
        for (text, place, what) in [
            (&b"# two\n\n\tsails 2\n"[..], "line 3, column 8", "expected"),
            (b"sails = \"two\"", "line 1, column 9", "invalid type: string \"two\", expected u8"),
            (b"sails = 1\noars = 2\n", "line 2, column 1", "unknown field `oars`"),
            (b"sails = 300", "line 1, column 9", "300"),
            (b"", "line 1, column 1", "missing field `sails`"),
            (b"sails = 1\n[a", "line 2, column 3", ""),
            (
                "sails = 1\n# Segel: \u{fc}\n\u{fc} = 1".as_bytes(),
                "line 3, column 1",
                "unquoted key",
            ),
            (b"sails = 1\nx\xff", "line 2, column 2", "not UTF-8"),
        ] {
            std::fs::write(&path, text).unwrap();
            let sentence = read_toml::<Ship>(&path, 100).unwrap_err().to_string();
            let begins = format!("{}, {place}: ", path.display());
            assert!(sentence.starts_with(&begins) && sentence.contains(what), "{sentence}");
            assert!(!sentence.contains('\n') && sentence.len() > begins.len(), "{sentence}");
        }
        std::fs::write(&path, "sails = 3").unwrap();
        assert_eq!(read_toml::<Ship>(&path, 9).unwrap().sails, 3);
        let sentence = read_toml::<Ship>(&path, 8).unwrap_err().to_string();
        assert!(
            sentence.ends_with("ship.toml has more than the 8 bytes that such a file can have")
        );
    }

    #[test]
    fn a_file_that_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let sentence = read(&dir.path().join("none"), 9).unwrap_err().to_string();
        assert!(sentence.ends_with("/none does not exist"), "{sentence}");
        let sentence = read(dir.path(), 9).unwrap_err().to_string();
        assert!(sentence.starts_with("cannot read "), "{sentence}");
        #[cfg(target_os = "linux")]
        assert!(matches!(read(Path::new("/dev/zero"), 9), Err(SmallFileError::TooLarge { .. })));
    }
}
