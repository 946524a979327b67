//! The `[TRACE]` argument of the commands that read one.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::Errno;
use crate::trace::reader::Reader;
use crate::trace::store::Store;

/// A trace that was opened.
pub struct Input {
    /// Where it was found, for messages.
    pub name: String,
    /// Its events.
    pub reader: Reader<Box<dyn Read>>,
}

/// Opens the trace that was named, `-` being stdin, or the newest run's.
///
/// # Errors
/// A sentence: there is none, or it cannot be opened.
pub fn open(trace: Option<&Path>) -> Result<Input, String> {
    if trace == Some(Path::new("-")) {
        let reader = Reader::new(Box::new(io::stdin().lock()) as Box<dyn Read>);
        return Ok(Input {
            name: "stdin".to_owned(),
            reader,
        });
    }
    let path: PathBuf = match trace {
        Some(path) => path.to_owned(),
        None => Store::locate()
            .and_then(|store| store.latest())
            .map_err(|error| error.to_string())?,
    };
    let name = format!("{}", path.display()).escape_debug().to_string();
    let file = File::open(&path).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::NotFound => "; `iolens log` without a name takes the newest",
            io::ErrorKind::PermissionDenied => "; traces are their owner's alone",
            _ => "",
        };
        format!(
            "cannot open the trace {name}: {}{advice}",
            Errno::from(error)
        )
    })?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(format!("{name} is a directory, not a trace"));
    }
    Ok(Input {
        name,
        reader: Reader::new(Box::new(file)),
    })
}
