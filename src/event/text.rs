//! Bytes that are usually UTF-8, in a format that only has UTF-8.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// A path below SOURCE: `path`, and `path_b64` where `path` had to be lossy. The root is `.`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ByteText {
    /// The path; U+FFFD stands for what is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Arc<str>>,
    /// The exact bytes in base64 (RFC 4648, padded), where `path` is lossy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<Arc<str>>,
}

impl ByteText {
    /// The text for exactly these bytes.
    #[must_use]
    pub fn new(bytes: &OsStr) -> ByteText {
        let (path, path_b64) = split(bytes);
        ByteText {
            path: Some(path),
            path_b64,
        }
    }

    /// The exact bytes, where this holds any.
    #[must_use]
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match (&self.path_b64, &self.path) {
            (Some(b64), _) => STANDARD.decode(b64.as_bytes()).ok(),
            (None, Some(path)) => Some(path.as_bytes().to_vec()),
            (None, None) => None,
        }
    }
}

/// The lossy text of `bytes` and, only where it is lossy, their base64.
pub(super) fn split(bytes: &OsStr) -> (Arc<str>, Option<Arc<str>>) {
    match bytes.to_str() {
        Some(text) => (text.into(), None),
        None => (
            bytes.to_string_lossy().into_owned().into(),
            Some(STANDARD.encode(bytes.as_bytes()).into()),
        ),
    }
}
