//! Hostile certificate requests: ten families of fifteen, with details drawn from a seed. Here stand those that ask
//! for more than a key; in `forms` those whose key, signature or encoding is no good.

mod forms;

use fixtures::{CRL_SIGN, CsrBlueprint, KEY_CERT_SIGN, RawName, TestKey, attribute, der, dns, oid, uri};

use crate::testing::Random;

/// What must become of a request.
pub(super) enum Expected {
    /// The certificate of an honest one.
    Same,
    /// No certificate.
    Refused,
    /// One of the two: its form is such that readers differ.
    Either,
}

/// One request.
pub(super) struct Case {
    pub(super) what: String,
    pub(super) request: Vec<u8>,
    pub(super) expected: Expected,
    /// The key that it is for, if that is not the one it was made for.
    pub(super) key: Option<TestKey>,
}

type Make = fn(usize, &mut Random, &TestKey, &TestKey) -> Case;

/// How many each family makes.
pub(super) const PER_FAMILY: usize = 15;

/// Families by name. Each is given the number of the case, what to draw from, the key of whoever asks, and that of
/// the authority.
pub(super) const FAMILIES: [(&str, Make); 10] = [
    ("names", names),
    ("subject", subject),
    ("extensions", extensions),
    ("attributes", attributes),
    ("key", forms::keys),
    ("possession", forms::possession),
    ("encoding", forms::encoding),
    ("truncation", forms::truncation),
    ("trailing", forms::trailing),
    ("size", forms::size),
];

fn case(what: &str, request: Vec<u8>, expected: Expected) -> Case {
    Case { what: what.to_owned(), request, expected, key: None }
}

fn word(random: &mut Random) -> String {
    (0..1 + random.index(12)).map(|_| char::from(b'a' + u8::try_from(random.below(26)).unwrap())).collect()
}

fn printable(text: &str) -> Vec<u8> {
    der::element(0x13, text.as_bytes())
}

fn names(which: usize, random: &mut Random, key: &TestKey, _: &TestKey) -> Case {
    let word = word(random);
    let id = |path: &str| uri(&format!("spiffe://td/{path}"));
    let (what, names): (&str, Vec<RawName>) = match which {
        0 => ("another workload", vec![id(&word)]),
        1 => ("the server", vec![id("credence/server")]),
        2 => ("an operator", vec![id("credence/operator/admin")]),
        3 => ("a node", vec![id(&format!("credence/node/{word}"))]),
        4 => ("another domain", vec![uri(&format!("spiffe://{word}.example/web"))]),
        5 => ("two identities", vec![id("web"), id(&word)]),
        6 => ("DNS names", vec![dns("localhost"), dns(&format!("*.{word}.example"))]),
        7 => ("addresses", vec![(0x87, random.octets(4)), (0x87, random.octets(16))]),
        8 => ("an address of five octets", vec![(0x87, random.octets(5))]),
        9 => ("a mailbox", vec![(0x81, format!("{word}@td").into_bytes())]),
        10 => ("a directory name", vec![(0xa4, der::name("Credence", &word))]),
        11 => {
            let upn = [0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x14, 0x02, 0x03];
            let value = der::element(0xa0, &der::element(0x0c, b"web\0admin"));
            ("another name with a NUL", vec![(0xa0, [der::object_id(&upn), value].concat())])
        }
        12 => ("an identity with a NUL", vec![uri("spiffe://td/web\0.evil")]),
        13 => ("no name at all", vec![]),
        _ => ("forty identities", (0..40).map(|number| id(&format!("{word}-{number}"))).collect()),
    };
    let blueprint = CsrBlueprint::honest(key).asking_for_names(random.once_in(2), &names);
    // A reader may stumble over names that are none.
    let expected = if matches!(which, 8 | 11 | 12 | 13) { Expected::Either } else { Expected::Same };
    case(what, blueprint.sign(key), expected)
}

fn subject(which: usize, random: &mut Random, key: &TestKey, _: &TestKey) -> Case {
    let word = word(random);
    let common = [0x55, 0x04, 0x03];
    let rdn = |kind: &[u8], value: Vec<u8>| der::set(&[&der::sequence(&[&der::object_id(kind), &value])]);
    let one = |value: Vec<u8>| der::sequence(&[&rdn(&common, value)]);
    let utf8 = |text: &str| der::element(0x0c, text.as_bytes());
    let (what, subject) = match which {
        0 => ("a common name", one(utf8(&word))),
        1 => ("an identity as common name", one(utf8("spiffe://td/credence/operator/admin"))),
        2 => ("organization and common name", der::name("Credence", &format!("issuing {word}"))),
        3 => ("a DNS name as common name", one(printable("localhost"))),
        4 => ("a NUL inside", one(utf8("admin\0.example"))),
        5 => ("a BMPString", one(der::element(0x1e, &[0, 0x61, 0x26, 0x20]))),
        6 => ("a TeletexString", one(der::element(0x14, &random.octets(8)))),
        7 => ("UTF-8 that is none", one(der::element(0x0c, &[0xff, 0xfe, 0xc0]))),
        8 => ("three kilobytes", one(utf8(&"x".repeat(3000)))),
        9 => ("a name of many parts", {
            let parts: Vec<Vec<u8>> = (0..60).map(|_| rdn(&common, utf8(&word))).collect();
            der::element(0x30, &parts.concat())
        }),
        10 => ("two values in one part", {
            let value = |text: &str| der::sequence(&[&der::object_id(&common), &utf8(text)]);
            der::sequence(&[&der::set(&[&value("a"), &value(&word)])])
        }),
        11 => ("an empty part", der::sequence(&[&der::set(&[])])),
        12 => ("a mailbox in the subject", {
            let email = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01];
            der::sequence(&[&rdn(&email, der::element(0x16, b"root@td"))])
        }),
        13 => ("text that writes over a terminal", one(utf8("\u{1b}[2K\u{202e}nimda"))),
        _ => ("a sequence as value", one(der::sequence(&[&utf8(&word)]))),
    };
    let request = CsrBlueprint { subject, ..CsrBlueprint::honest(key) }.sign(key);
    let expected = if matches!(which, 7 | 11) { Expected::Either } else { Expected::Same };
    case(what, request, expected)
}

fn extensions(which: usize, random: &mut Random, key: &TestKey, authority: &TestKey) -> Case {
    let honest = CsrBlueprint::honest(key);
    let critical = random.once_in(2);
    let ask = |oid: &[u8], value: Vec<u8>| honest.clone().asking_for(oid, critical, &value);
    let authority_true = || der::sequence(&[&[0x01, 0x01, 0xff]]);
    let several = |extensions: &[Vec<u8>]| {
        honest.clone().with(attribute::EXTENSION_REQUEST, &der::element(0x30, &extensions.concat()))
    };
    let constraints = |value: &[u8]| CsrBlueprint::extension(oid::BASIC_CONSTRAINTS, critical, value);
    let (what, blueprint) = match which {
        0 => ("an authority", ask(oid::BASIC_CONSTRAINTS, authority_true())),
        1 => {
            let value = der::sequence(&[&[0x01, 0x01, 0xff], &der::element(0x02, &[7])]);
            ("an authority with a path length", ask(oid::BASIC_CONSTRAINTS, value))
        }
        2 => ("keyCertSign", ask(oid::KEY_USAGE, vec![0x03, 0x02, 0x01, KEY_CERT_SIGN | CRL_SIGN])),
        3 => ("all usages", ask(oid::KEY_USAGE, vec![0x03, 0x03, 0x07, 0xff, 0x80])),
        4 => {
            let value = der::sequence(&[&der::object_id(oid::ANY_USAGE)]);
            ("any purpose", ask(oid::EXTENDED_KEY_USAGE, value))
        }
        5 => {
            let value = der::sequence(&[&der::object_id(oid::CODE_SIGNING)]);
            ("code signing", ask(oid::EXTENDED_KEY_USAGE, value))
        }
        6 => {
            let subtree = der::sequence(&[&der::element(0x86, b"td")]);
            ("name constraints", ask(oid::NAME_CONSTRAINTS, der::sequence(&[&der::element(0xa0, &subtree)])))
        }
        7 => {
            let spki = authority.spki_der();
            ("the authority's key id", ask(oid::SUBJECT_KEY_ID, der::element(0x04, &spki[spki.len() - 20..])))
        }
        8 => {
            let value = der::sequence(&[&der::element(0x80, &random.octets(20))]);
            ("another issuer's key id", ask(oid::AUTHORITY_KEY_ID, value))
        }
        9 => ("an unknown extension", ask(oid::UNKNOWN, random.octets(30))),
        10 => {
            let twice = [constraints(&authority_true()), constraints(&[0x30, 0x00])];
            ("an extension twice", several(&twice))
        }
        11 => {
            let point = der::sequence(&[&der::element(0x86, b"http://evil.example/crl")]);
            ("a place for revocation lists", ask(&[0x55, 0x1d, 0x1f], der::sequence(&[&point])))
        }
        12 => {
            let policy = der::sequence(&[&der::object_id(&[0x55, 0x1d, 0x20, 0x00])]);
            ("any policy", ask(&[0x55, 0x1d, 0x20], der::sequence(&[&policy])))
        }
        13 => ("constraints that are none", ask(oid::BASIC_CONSTRAINTS, random.octets(9))),
        _ => {
            let all = [
                constraints(&authority_true()),
                CsrBlueprint::extension(oid::KEY_USAGE, true, &[0x03, 0x02, 0x01, KEY_CERT_SIGN]),
                CsrBlueprint::extension(oid::SUBJECT_ALT_NAME, true, &[0x30, 0x00]),
                CsrBlueprint::extension(oid::UNKNOWN, true, &[0x05, 0x00]),
            ];
            ("everything at once", several(&all))
        }
    };
    let expected = if matches!(which, 10 | 13 | 14) { Expected::Either } else { Expected::Same };
    case(what, blueprint.sign(key), expected)
}

fn attributes(which: usize, random: &mut Random, key: &TestKey, _: &TestKey) -> Case {
    let honest = CsrBlueprint::honest(key);
    let names = |path: &str| {
        let value = der::sequence(&[&der::element(0x86, format!("spiffe://td/{path}").as_bytes())]);
        der::sequence(&[&CsrBlueprint::extension(oid::SUBJECT_ALT_NAME, true, &value)])
    };
    let raw = |attribute: Vec<u8>| CsrBlueprint { attributes: vec![attribute], ..honest.clone() };
    let request = attribute::EXTENSION_REQUEST;
    let (what, blueprint) = match which {
        0 => ("a password", honest.with(attribute::CHALLENGE_PASSWORD, &printable(&word(random)))),
        1 => ("a name without structure", honest.with(attribute::UNSTRUCTURED_NAME, &printable("admin"))),
        2 => ("extensions twice", honest.with(request, &names("a")).with(request, &names("b"))),
        3 => ("Microsoft's extensions", honest.with(attribute::MICROSOFT_EXTENSIONS, &names("admin"))),
        4 => ("an unknown attribute", honest.with(oid::UNKNOWN, &der::element(0x04, &random.octets(40)))),
        5 => ("an attribute without value", raw(der::sequence(&[&der::object_id(request), &der::set(&[])]))),
        6 => {
            let values = der::set(&[&names("a"), &names("b")]);
            ("two values", raw(der::sequence(&[&der::object_id(request), &values])))
        }
        7 => ("extensions that are none", honest.with(request, &der::element(0x04, &random.octets(12)))),
        8 => ("a sequence for a set", {
            raw(der::sequence(&[&der::object_id(request), &der::sequence(&[&names("a")])]))
        }),
        9 => ("an attribute that is none", raw(der::element(0x04, &random.octets(10)))),
        10 => ("an attribute of many values", {
            let values: Vec<Vec<u8>> = (0..50).map(|_| printable(&word(random))).collect();
            raw(der::sequence(&[
                &der::object_id(attribute::CHALLENGE_PASSWORD),
                &der::element(0x31, &values.concat()),
            ]))
        }),
        11 => ("a request within a request", honest.clone().with(request, &honest.sign(key))),
        12 => ("no extension in a request for extensions", honest.with(request, &der::sequence(&[]))),
        13 => ("attributes out of order", {
            honest.with(oid::UNKNOWN, &[0x05, 0x00]).with(attribute::CHALLENGE_PASSWORD, &printable("x"))
        }),
        _ => ("a value of a private class", honest.with(oid::UNKNOWN, &der::element(0xdf, &[1, 2]))),
    };
    let expected = if matches!(which, 0 | 1 | 3 | 4 | 13) { Expected::Same } else { Expected::Either };
    case(what, blueprint.sign(key), expected)
}
