//! A distinguished name taken from one certificate, to be written again into another.

use rcgen::{DistinguishedName, DnType, DnValue, string};

use crate::{
    Certificate,
    anatomy::Anatomy,
    der::{self, Reader},
};

const BMP_STRING: u8 = 0x1e;
const IA5_STRING: u8 = 0x16;
const PRINTABLE_STRING: u8 = 0x13;
const TELETEX_STRING: u8 = 0x14;
const UNIVERSAL_STRING: u8 = 0x1c;
const UTF8_STRING: u8 = 0x0c;

/// The subject of `certificate`; `None` when it is of a form that would not come out again octet by octet: empty,
/// several attributes side by side, one attribute twice, or a string type that is not known.
pub(crate) fn distinguished_name(certificate: &Certificate) -> Option<DistinguishedName> {
    let mut names = Reader::new(Anatomy::of(certificate.der()).ok()?.subject);
    let mut name = DistinguishedName::new();
    if names.is_empty() {
        return None;
    }
    while !names.is_empty() {
        let mut set = Reader::new(names.expect(der::SET).ok()?.value);
        let mut attribute = Reader::new(set.expect(der::SEQUENCE).ok()?.value);
        set.finish().ok()?;
        let kind = DnType::CustomDnType(arcs(attribute.expect(der::OBJECT_ID).ok()?.value)?);
        let value = attribute.next().ok()?;
        attribute.finish().ok()?;
        if name.get(&kind).is_some() {
            return None;
        }
        name.push(kind, text(value.tag, value.value)?);
    }
    Some(name)
}

fn arcs(oid: &[u8]) -> Option<Vec<u64>> {
    der::dotted(oid).split('.').map(|arc| arc.parse().ok()).collect()
}

fn text(tag: u8, value: &[u8]) -> Option<DnValue> {
    let utf8 = || std::str::from_utf8(value).ok();
    Some(match tag {
        UTF8_STRING => DnValue::Utf8String(utf8()?.to_owned()),
        PRINTABLE_STRING => DnValue::PrintableString(utf8()?.try_into().ok()?),
        IA5_STRING => DnValue::Ia5String(utf8()?.try_into().ok()?),
        TELETEX_STRING => DnValue::TeletexString(utf8()?.try_into().ok()?),
        BMP_STRING => DnValue::BmpString(string::BmpString::from_utf16be(value.to_vec()).ok()?),
        UNIVERSAL_STRING => {
            DnValue::UniversalString(string::UniversalString::from_utf32be(value.to_vec()).ok()?)
        }
        _ => return None,
    })
}
