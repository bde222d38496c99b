//! Texts of files and pipes: read within a bound, and what is no UTF-8 is told what it seems to be.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use api::rest::MAX_BODY_BYTES;

use crate::output::{Exit, Failure};

/// The most bytes that are read of one file. A call takes fewer; `check` tells of that with everything else.
const MAX_BYTES: usize = 16 * MAX_BODY_BYTES;

/// The text of a file, or of standard input for `-`.
pub(super) fn read(path: &Path) -> Result<String, Failure> {
    let failed = |error: io::Error| {
        let exit = if error.kind() == io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
        Failure::new(exit, format!("cannot read {}: {error}", path.display()), "check the path")
    };
    let name = path.display().to_string();
    match path == Path::new("-") {
        true => text("standard input", bounded(io::stdin().lock()).map_err(failed)?),
        false => text(&name, File::open(path).and_then(bounded).map_err(failed)?),
    }
}

/// What comes, and no more than one byte beyond the bound: devices and pipes need not end.
fn bounded(source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let bound = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX);
    source.take(bound.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn text(name: &str, bytes: Vec<u8>) -> Result<String, Failure> {
    if bytes.len() > MAX_BYTES {
        let message = format!("{name} is longer than {MAX_BYTES} bytes, or does not end");
        let hint = format!("name a file with documents: at most {MAX_BODY_BYTES} bytes are applied at once");
        return Err(Failure::new(Exit::Failed, message, hint));
    }
    let is_wide = |bytes: &[u8]| Encoding::wide(bytes).is_some();
    match String::from_utf8(bytes) {
        Ok(text) if !is_wide(text.as_bytes()) => Ok(text),
        Ok(text) => Err(not_utf8(name, text.as_bytes(), 0)),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            Err(not_utf8(name, error.as_bytes(), at))
        }
    }
}

fn not_utf8(name: &str, bytes: &[u8], valid: usize) -> Failure {
    let line = bytes.iter().take(valid).filter(|byte| **byte == b'\n').count() + 1;
    let place = format!("cannot read {name}: it is not UTF-8 in line {line}");
    let (message, hint) = match Encoding::guess(bytes) {
        Some(encoding) => (
            format!("{place}, and seems to be {}", encoding.words()),
            format!("save it as UTF-8, such as by iconv -f {} -t UTF-8", encoding.name()),
        ),
        None => (format!("{place}, and seems to be no text"), "name a file with text in UTF-8".to_owned()),
    };
    Failure::new(Exit::Failed, message, hint)
}

/// How a text that is no UTF-8 seems to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// With a mark at its beginning, which says the rest.
    Utf16,
    Utf16Little,
    Utf16Big,
    Latin1,
    Windows1252,
}

impl Encoding {
    fn guess(bytes: &[u8]) -> Option<Self> {
        let is_control = |byte: &u8| *byte < b' ' && !matches!(byte, b'\n' | b'\r' | b'\t');
        match Self::wide(bytes) {
            Some(wide) => Some(wide),
            None if bytes.iter().any(is_control) => None,
            // Where Latin-1 has controls, Windows has quotes, dashes and the sign of the euro.
            None if bytes.iter().any(|byte| (0x80..0xa0).contains(byte)) => Some(Self::Windows1252),
            None => Some(Self::Latin1),
        }
    }

    /// Two bytes for a letter, of which one is 0 in what documents are made of.
    fn wide(bytes: &[u8]) -> Option<Self> {
        const LOOKED_AT: usize = 64;
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
            return Some(Self::Utf16);
        }
        let pairs = bytes.chunks_exact(2).take(LOOKED_AT).map(|pair| (pair[0] == 0, pair[1] == 0));
        let (first, second) = pairs.fold((0, 0), |(first, second), (is_first, is_second)| {
            (first + usize::from(is_first && !is_second), second + usize::from(is_second && !is_first))
        });
        let most = (bytes.len() / 2).min(LOOKED_AT).div_ceil(2).max(1);
        match () {
            () if second >= most => Some(Self::Utf16Little),
            () if first >= most => Some(Self::Utf16Big),
            () => None,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Utf16 => "UTF-16",
            Self::Utf16Little => "UTF-16 (little-endian)",
            Self::Utf16Big => "UTF-16 (big-endian)",
            Self::Latin1 => "ISO 8859-1 (Latin-1)",
            Self::Windows1252 => "Windows-1252",
        }
    }

    /// What `iconv` calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Utf16 => "UTF-16",
            Self::Utf16Little => "UTF-16LE",
            Self::Utf16Big => "UTF-16BE",
            Self::Latin1 => "ISO-8859-1",
            Self::Windows1252 => "WINDOWS-1252",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "apiVersion: v1\nkind: Endpoints # Größe\n";

    fn wide(text: &str, mark: &[u8], order: fn(u16) -> [u8; 2]) -> Vec<u8> {
        mark.iter().copied().chain(text.encode_utf16().flat_map(order)).collect()
    }

    #[test]
    fn what_is_no_utf8_hears_what_it_seems_to_be() {
        let check = |bytes: Vec<u8>, expected: &str, name: &str| {
            let failure = text("web.yaml", bytes).unwrap_err();
            assert_eq!(failure.message, format!("cannot read web.yaml: it is not UTF-8 in {expected}"));
            assert_eq!(failure.hint, format!("save it as UTF-8, such as by iconv -f {name} -t UTF-8"));
        };
        let latin =
            |text: &str| text.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap()).collect();
        check(wide(TEXT, &[0xff, 0xfe], u16::to_le_bytes), "line 1, and seems to be UTF-16", "UTF-16");
        check(wide(TEXT, &[0xfe, 0xff], u16::to_be_bytes), "line 1, and seems to be UTF-16", "UTF-16");
        let little = "line 1, and seems to be UTF-16 (little-endian)";
        check(wide(&TEXT.replace("öß", ""), &[], u16::to_le_bytes), little, "UTF-16LE");
        check(wide(TEXT, &[], u16::to_be_bytes), "line 2, and seems to be UTF-16 (big-endian)", "UTF-16BE");
        check(latin(TEXT), "line 2, and seems to be ISO 8859-1 (Latin-1)", "ISO-8859-1");
        check(latin("a: \u{93}b\u{94}\n"), "line 1, and seems to be Windows-1252", "WINDOWS-1252");
        let failure = text("web.yaml", vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0xff]).unwrap_err();
        assert!(failure.message.ends_with("seems to be no text"), "{}", failure.message);
    }

    #[test]
    fn utf8_is_taken_as_it_is() {
        for good in ["", "a", "é", TEXT, "\u{feff}a: 1\n", "a: \"\0\"\n"] {
            assert_eq!(text("web.yaml", good.as_bytes().to_vec()).unwrap(), good);
        }
    }

    #[test]
    fn what_does_not_end_is_refused_within_the_bound() {
        let endless = text("/dev/zero", bounded(io::repeat(0)).unwrap()).unwrap_err();
        assert!(
            endless.message.starts_with("/dev/zero is longer than 16777216 bytes"),
            "{}",
            endless.message
        );
        assert_eq!(bounded(io::repeat(b'a')).unwrap().len(), MAX_BYTES + 1);
        let failure = read(Path::new("/dev/zero")).unwrap_err();
        assert_eq!((failure.exit, failure.message), (Exit::Failed, endless.message));
    }
}
