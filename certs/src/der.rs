//! A reader of DER (ITU-T X.690 10), and the little writing that is needed: definite, shortest lengths and
//! single-octet tags, nothing else.
//!
//! It exists so that rules look at the octets that were signed, and not at what a lenient parser made of them.

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_ID: u8 = 0x06;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// Not DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotDer;

/// One tag, length and value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) value: &'a [u8],
    /// Tag, length and value together.
    pub(crate) raw: &'a [u8],
}

/// Reads elements one after another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn next(&mut self) -> Result<Element<'a>, NotDer> {
        let [tag, first, ..] = *self.0 else { return Err(NotDer) };
        if tag & 0x1f == 0x1f {
            return Err(NotDer);
        }
        let (header, length) = match first {
            0..=0x7f => (2, usize::from(first)),
            0x81..=0x84 => {
                let count = usize::from(first & 0x7f);
                let octets = self.0.get(2..2 + count).ok_or(NotDer)?;
                let length = octets.iter().fold(0_usize, |sum, octet| sum << 8 | usize::from(*octet));
                if octets[0] == 0 || length < 0x80 {
                    return Err(NotDer);
                }
                (2 + count, length)
            }
            _ => return Err(NotDer),
        };
        let end = header.checked_add(length).ok_or(NotDer)?;
        let raw = self.0.get(..end).ok_or(NotDer)?;
        self.0 = &self.0[end..];
        Ok(Element { tag, value: &raw[header..], raw })
    }

    /// The next element, which must carry `tag`.
    pub(crate) fn expect(&mut self, tag: u8) -> Result<Element<'a>, NotDer> {
        let element = self.next()?;
        if element.tag == tag { Ok(element) } else { Err(NotDer) }
    }

    /// The next element if it carries `tag`.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<Element<'a>>, NotDer> {
        if self.0.first() == Some(&tag) { self.next().map(Some) } else { Ok(None) }
    }

    /// Nothing may be left.
    pub(crate) fn finish(self) -> Result<(), NotDer> {
        if self.is_empty() { Ok(()) } else { Err(NotDer) }
    }
}

/// Opens the one element with `tag` that fills `octets`.
pub(crate) fn open(octets: &[u8], tag: u8) -> Result<Reader<'_>, NotDer> {
    let mut reader = Reader::new(octets);
    let element = reader.expect(tag)?;
    reader.finish()?;
    Ok(Reader::new(element.value))
}

/// One element whose content is `parts`, one after another.
pub(crate) fn encode(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut octets = Vec::with_capacity(length + 6);
    octets.push(tag);
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => octets.push(short),
        _ => {
            let length = length.to_be_bytes();
            let significant = &length[length.iter().take_while(|octet| **octet == 0).count()..];
            octets.push(0x80 | u8::try_from(significant.len()).expect("a length has at most eight octets"));
            octets.extend_from_slice(significant);
        }
    }
    parts.iter().for_each(|part| octets.extend_from_slice(part));
    octets
}

/// Whether these are the content octets of an INTEGER in its shortest form.
pub(crate) fn is_shortest_integer(value: &[u8]) -> bool {
    match *value {
        [] => false,
        [0, second, ..] => second & 0x80 != 0,
        [0xff, second, ..] => second & 0x80 == 0,
        [..] => true,
    }
}

/// The content octets of an OBJECT IDENTIFIER as dotted decimals.
pub(crate) fn dotted(oid: &[u8]) -> String {
    let mut text = String::new();
    let mut arc: u64 = 0;
    for octet in oid {
        arc = arc.saturating_mul(128).saturating_add(u64::from(octet & 0x7f));
        if octet & 0x80 != 0 {
            continue;
        }
        if text.is_empty() {
            let top = (arc / 40).min(2);
            text = format!("{top}.{}", arc - top * 40);
        } else {
            text.push_str(&format!(".{arc}"));
        }
        arc = 0;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_ber_allows_and_der_does_not() {
        let check = |octets: &[u8], expected: bool| {
            assert_eq!(open(octets, SEQUENCE).is_ok(), expected, "{octets:02x?}");
        };
        check(&[0x30, 0x00], true);
        check(&[0x30, 0x80, 0x00, 0x00], false);
        check(&[0x30, 0x81, 0x00], false);
        check(&[0x30, 0x81, 0x01, 0x00], false);
        check(&[0x30, 0x01], false);
        check(&[0x30, 0x00, 0x00], false);
        check(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], false);
        check(&[0x30, 0x88, 1, 1, 1, 1, 1, 1, 1, 1], false);
        check(&[0x1f, 0x81, 0x01, 0x00], false);
        check(&[], false);
    }

    #[test]
    fn what_is_written_reads_back_with_the_shortest_length() {
        for (length, header) in [(0, 2), (127, 2), (128, 3), (255, 3), (256, 4), (65_535, 4), (65_536, 5)] {
            let content = vec![0x5a; length];
            let octets = encode(OCTET_STRING, &[&content[..length / 2], &content[length / 2..]]);
            assert_eq!(octets.len(), header + length);
            let element = Reader::new(&octets).expect(OCTET_STRING).unwrap();
            assert_eq!((element.value, element.raw), (&content[..], &octets[..]));
        }
    }

    #[test]
    fn writes_object_identifiers_as_people_do() {
        assert_eq!(dotted(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01]), "1.2.840.10045.2.1");
        assert_eq!(dotted(&[0x55, 0x1d, 0x11]), "2.5.29.17");
        assert_eq!(dotted(&[0x88, 0x37]), "2.999");
    }
}
