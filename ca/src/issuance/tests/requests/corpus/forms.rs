//! Keys that are not certified, proofs that prove nothing, and octets that are no DER.

use certs::MAX_CSR_BYTES;
use fixtures::{CsrBlueprint, TestKey, TestKeyKind, attribute, der, dns, oid, uri};

use super::{Case, Expected, case, printable, word};
use crate::testing::Random;

/// The SubjectPublicKeyInfo of an elliptic curve key with these parameters and this point.
fn ec_key(algorithm: &[u8], parameters: &[u8], bits: &[u8]) -> Vec<u8> {
    der::sequence(&[&der::sequence(&[&der::object_id(algorithm), parameters]), &der::element(0x03, bits)])
}

const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

pub(super) fn keys(which: usize, random: &mut Random, _: &TestKey, authority: &TestKey) -> Case {
    let key = TestKey::generate(TestKeyKind::P256);
    let spki = key.spki_der();
    let point = &spki[spki.len() - 64..];
    let with_point = |first: u8, rest: &[u8]| [&[0, first], rest].concat();
    let named = der::object_id(P256);
    let own = |kind| {
        let other = TestKey::generate(kind);
        CsrBlueprint::honest(&other).sign(&other)
    };
    let of = |spki: Vec<u8>| CsrBlueprint { spki, ..CsrBlueprint::honest(&key) }.sign(&key);
    let rsa = |octets: usize, random: &mut Random| {
        let modulus = [&[0x00, 0xc1], random.octets(octets - 2).as_slice(), &[0x01]].concat();
        let numbers = der::sequence(&[&der::element(0x02, &modulus), &der::element(0x02, &[1, 0, 1])]);
        let oid = der::object_id(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01]);
        der::sequence(&[&der::sequence(&[&oid, &[0x05, 0x00]]), &der::bit_string(&numbers)])
    };
    let whole = with_point(4, point);
    let (what, request) = match which {
        0 => ("RSA", own(TestKeyKind::Rsa2048)),
        1 => ("Ed25519", own(TestKeyKind::Ed25519)),
        2 => ("P-521", own(TestKeyKind::P521)),
        3 => ("RSA of 1024 bits", of(rsa(128, random))),
        4 => {
            let curves: [&[u8]; 3] = [
                &[0x2b, 0x81, 0x04, 0x00, 0x0a],
                &[0x2b, 0x81, 0x04, 0x00, 0x21],
                &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x01],
            ];
            ("another curve", of(ec_key(EC, &der::object_id(random.of::<&[u8]>(&curves)), &whole)))
        }
        5 => ("the authority's own key", CsrBlueprint::honest(authority).sign(authority)),
        6 => ("DSA", of(ec_key(&[0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x01], &[], &whole))),
        7 => {
            let parameters =
                der::sequence(&[&der::element(0x02, &[1]), &der::element(0x04, &random.octets(32))]);
            ("a curve that is written out", of(ec_key(EC, &parameters, &whole)))
        }
        8 => ("a compressed point", of(ec_key(EC, &named, &with_point(2 | (point[63] & 1), &point[..32])))),
        9 => ("a hybrid point", of(ec_key(EC, &named, &with_point(6 | (point[63] & 1), point)))),
        10 => ("a point off the curve", {
            let mut moved = point.to_vec();
            moved[random.index(64)] ^= 1 << random.below(8);
            of(ec_key(EC, &named, &with_point(4, &moved)))
        }),
        11 => ("the point at infinity", of(ec_key(EC, &named, &[0, 0]))),
        12 => ("a key for agreement", of(ec_key(&[0x2b, 0x81, 0x04, 0x01, 0x0c], &named, &whole))),
        13 => {
            ("a curve that is not named", of(ec_key(EC, random.of::<&[u8]>(&[&[], &[0x05, 0x00]]), &whole)))
        }
        _ => ("bits left over", of(ec_key(EC, &named, &[&[1 + random.octets(1)[0] % 7, 4], point].concat()))),
    };
    case(what, request, Expected::Refused)
}

pub(super) fn possession(which: usize, random: &mut Random, key: &TestKey, _: &TestKey) -> Case {
    let honest = CsrBlueprint::honest(key);
    let other = TestKey::generate(TestKeyKind::P256);
    let (info, algorithm) = (honest.info(), honest.algorithm(key));
    let signature = key.sign(&info);
    let claim = |changed: CsrBlueprint| CsrBlueprint::assemble(&changed.info(), &algorithm, &signature);
    let with_signature = |signature: &[u8]| CsrBlueprint::assemble(&info, &algorithm, signature);
    let named = CsrBlueprint { subject: der::name("Credence", &word(random)), ..honest.clone() };
    let (r, s) = halves(&signature);
    let (what, request) = match which {
        0 => ("signed by another key", honest.sign(&other)),
        1 => ("a bit of the signature flipped", {
            let mut bent = signature.clone();
            let at = 8 + random.index(bent.len() - 8);
            bent[at] ^= 1 << random.below(8);
            with_signature(&bent)
        }),
        2 => ("subject changed after signing", claim(named)),
        3 => ("key changed after signing", {
            let victim = TestKey::generate(TestKeyKind::P256);
            claim(CsrBlueprint { spki: victim.spki_der(), ..honest })
        }),
        4 => ("names added after signing", claim(honest.asking_for_names(true, &[dns("x")]))),
        5 => ("version changed after signing", {
            claim(CsrBlueprint { version: der::element(0x02, &[1]), ..honest })
        }),
        6 => ("a signature of zeros", {
            with_signature(&der::sequence(&[&der::element(0x02, &[0]), &der::element(0x02, &[0])]))
        }),
        7 => ("no signature", with_signature(&[])),
        8 => ("the signature of another request", with_signature(&key.sign(&named.info()))),
        9 => ("a signature over the content alone", with_signature(&key.sign(&info[4..]))),
        10 => ("a hash that was not used", {
            let last = if algorithm.last() == Some(&2) { 3 } else { 2 };
            let oid = der::object_id(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, last]);
            CsrBlueprint::assemble(&info, &der::sequence(&[&oid]), &signature)
        }),
        11 => ("an algorithm of RSA", {
            let oid = der::object_id(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b]);
            CsrBlueprint::assemble(&info, &der::sequence(&[&oid, &[0x05, 0x00]]), &signature)
        }),
        12 => ("halves of the signature swapped", {
            with_signature(&der::sequence(&[&der::element(0x02, s), &der::element(0x02, r)]))
        }),
        13 => ("halves side by side", with_signature(&[r, s].concat())),
        _ => ("noise for a signature", {
            let half = |random: &mut Random| {
                let mut octets = random.octets(31);
                octets[0] = 1 | (octets[0] & 0x7f);
                der::element(0x02, &octets)
            };
            let (r, s) = (half(random), half(random));
            with_signature(&der::sequence(&[&r, &s]))
        }),
    };
    case(what, request, Expected::Refused)
}

/// The contents of the two INTEGERs of an ECDSA signature; of both curves their lengths fit into an octet.
fn halves(signature: &[u8]) -> (&[u8], &[u8]) {
    let end = 4 + usize::from(signature[3]);
    (&signature[4..end], &signature[end + 2..])
}

/// `modulus` minus the number in `value`, both most significant first.
fn negate(modulus: &[u8], value: &[u8]) -> Vec<u8> {
    let mut padded = vec![0; modulus.len().saturating_sub(value.len())];
    padded.extend_from_slice(&value[value.len().saturating_sub(modulus.len())..]);
    let (mut difference, mut borrow) = (vec![0; modulus.len()], 0_i16);
    for at in (0..modulus.len()).rev() {
        let digit = i16::from(modulus[at]) - i16::from(padded[at]) - borrow;
        borrow = i16::from(digit < 0);
        difference[at] = u8::try_from(digit.rem_euclid(256)).unwrap();
    }
    let first = difference.iter().position(|octet| *octet != 0).unwrap_or(0);
    let mut number = difference[first..].to_vec();
    if number[0] & 0x80 != 0 {
        number.insert(0, 0);
    }
    number
}

/// The order of P-256.
const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
    0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

pub(super) fn encoding(which: usize, random: &mut Random, key: &TestKey, _: &TestKey) -> Case {
    let honest = CsrBlueprint::honest(key);
    let (info, algorithm) = (honest.info(), honest.algorithm(key));
    let whole = honest.sign(key);
    // SEQUENCE with a length in two octets: both keys give between 128 and 65535.
    let content = |element: &[u8]| {
        let header = 2 + if element[1] & 0x80 == 0 { 0 } else { usize::from(element[1] & 0x7f) };
        element[header..].to_vec()
    };
    let padded = |element: &[u8], octets: usize| {
        let inside = content(element);
        let length = inside.len().to_be_bytes();
        [&[element[0], 0x80 + u8::try_from(octets).unwrap()], &length[8 - octets..], &inside].concat()
    };
    let version = |octets: &[u8]| CsrBlueprint { version: octets.to_vec(), ..honest.clone() }.sign(key);
    let with_attributes = |attributes: &[u8]| {
        let parts = [&honest.version, &honest.subject, &honest.spki, attributes];
        honest.sign_info(&der::sequence(&parts), key)
    };
    let signature = key.sign(&info);
    let (r, s) = halves(&signature);
    let (what, request, expected) = match which {
        0 => {
            ("a length that is longer than it need be", padded(&whole, 3 + random.index(5)), Expected::Either)
        }
        1 => ("no length", [&[0x30, 0x80], &content(&whole)[..], &[0, 0]].concat(), Expected::Refused),
        2 => {
            let info = padded(&info, 3 + random.index(5));
            ("a longer length inside of what is signed", honest.sign_info(&info, key), Expected::Either)
        }
        3 => ("another version", version(&[0x02, 0x01, 1 + random.octets(1)[0] % 120]), Expected::Either),
        4 => ("a negative version", version(&[0x02, 0x01, 0xff]), Expected::Either),
        5 => ("no version", version(&[]), Expected::Refused),
        6 => ("a version with a needless zero", version(&[0x02, 0x02, 0x00, 0x00]), Expected::Either),
        7 => ("attributes under another tag", with_attributes(&[0xa1, 0x00]), Expected::Either),
        8 => ("no attributes", with_attributes(&[]), Expected::Either),
        9 => ("attributes as a primitive", with_attributes(&[0x80, 0x00]), Expected::Either),
        10 => {
            let names = der::element(0x04, &[0x30, 0x00]);
            let odd = der::sequence(&[&der::object_id(oid::SUBJECT_ALT_NAME), &[0x01, 0x01, 0x01], &names]);
            let odd = honest.clone().with(attribute::EXTENSION_REQUEST, &der::sequence(&[&odd]));
            ("a truth that is no DER", odd.sign(key), Expected::Either)
        }
        11 => {
            let parts = der::element(0x23, &der::bit_string(&signature));
            ("a signature in pieces", der::sequence(&[&info, &algorithm, &parts]), Expected::Refused)
        }
        12 => {
            let long = der::element(0x02, &[&[0], r].concat());
            let signature = der::sequence(&[&long, &der::element(0x02, s)]);
            let request = CsrBlueprint::assemble(&info, &algorithm, &signature);
            ("a needless zero in the signature", request, Expected::Either)
        }
        13 => {
            let algorithm = der::sequence(&[&content(&algorithm), &[0x05, 0x00]]);
            let request = CsrBlueprint { algorithm: Some(algorithm), ..honest.clone() }.sign(key);
            ("parameters that do not belong there", request, Expected::Either)
        }
        _ => {
            // (r, n - s) is a signature of the same key over the same octets, which anybody can make of the first.
            let key = TestKey::generate(TestKeyKind::P256);
            let honest = CsrBlueprint::honest(&key);
            let info = honest.info();
            let signature = key.sign(&info);
            let (r, s) = halves(&signature);
            let other = der::element(0x02, &negate(&P256_ORDER, s));
            let other = der::sequence(&[&der::element(0x02, r), &other]);
            let request = CsrBlueprint::assemble(&info, &honest.algorithm(&key), &other);
            return Case { key: Some(key), ..case("the other signature", request, Expected::Same) };
        }
    };
    case(what, request, expected)
}

pub(super) fn truncation(which: usize, random: &mut Random, key: &TestKey, _: &TestKey) -> Case {
    let mut request = CsrBlueprint::honest(key);
    if which % 2 == 1 {
        request = request.asking_for_names(true, &[uri("spiffe://td/admin"), dns("localhost")]);
    }
    let mut request = request.sign(key);
    let left = match which {
        0 => 0,
        1 => 1,
        2 => request.len() - 1,
        3 => 4,
        _ => 2 + random.index(request.len() - 3),
    };
    request.truncate(left);
    case(&format!("{left} octets left"), request, Expected::Refused)
}

pub(super) fn trailing(which: usize, random: &mut Random, key: &TestKey, _: &TestKey) -> Case {
    let honest = CsrBlueprint::honest(key);
    let whole = honest.sign(key);
    let (info, algorithm) = (honest.info(), honest.algorithm(key));
    let signature = key.sign(&info);
    let after = |tail: &[u8]| [&whole, tail].concat();
    let before = |head: &[u8]| [head, &whole].concat();
    let text = hex::encode(&whole).into_bytes();
    let (what, request, expected) = match which {
        0 => ("noise after it", after(&[&[1], random.octets(9).as_slice()].concat()), Expected::Refused),
        1 => ("a NUL after it", after(&[0]), Expected::Refused),
        2 => ("a line feed after it", after(b"\n"), Expected::Refused),
        3 => ("another request after it", after(&whole), Expected::Refused),
        4 => ("its end marked", after(&[0, 0]), Expected::Refused),
        5 => {
            let armour = [b"-----BEGIN CERTIFICATE REQUEST-----\n", text.as_slice()].concat();
            ("text", armour, Expected::Refused)
        }
        6 => ("digits", text, Expected::Refused),
        7 => {
            let more = der::element(0x04, &random.octets(6));
            let parts = [&info[..], &algorithm, &der::bit_string(&signature), &more];
            ("more after the signature", der::sequence(&parts), Expected::Either)
        }
        8 => {
            let rest = der::element(0xa3, &der::name("Credence", "admin"));
            ("more inside of what is signed", CsrBlueprint { rest, ..honest }.sign(key), Expected::Either)
        }
        9 => {
            let inside = [&honest.spki[2..], &[0x05, 0x00]].concat();
            let spki = der::element(0x30, &inside);
            ("more after the key", CsrBlueprint { spki, ..honest }.sign(key), Expected::Refused)
        }
        10 => {
            let more = der::sequence(&[&algorithm[2..], &[0x05, 0x00, 0x05, 0x00]]);
            let request = CsrBlueprint { algorithm: Some(more), ..honest }.sign(key);
            ("more after the algorithm", request, Expected::Either)
        }
        11 => {
            let (r, s) = halves(&signature);
            let halves = [der::element(0x02, r), der::element(0x02, s), vec![0x05, 0x00]];
            let signature = der::element(0x30, &halves.concat());
            let request = CsrBlueprint::assemble(&info, &algorithm, &signature);
            ("more inside of the signature", request, Expected::Either)
        }
        12 => {
            let request = CsrBlueprint::assemble(&info, &algorithm, &[&signature[..], &[0]].concat());
            ("more after the signature's halves", request, Expected::Either)
        }
        13 => ("an octet before it", before(&[random.octets(1)[0] & 0x0f]), Expected::Refused),
        _ => ("a byte order mark before it", before(&[0xef, 0xbb, 0xbf]), Expected::Refused),
    };
    case(what, request, expected)
}

pub(super) fn size(which: usize, random: &mut Random, key: &TestKey, _: &TestKey) -> Case {
    let honest = CsrBlueprint::honest(key);
    let of_size = |octets: usize| {
        // A signature is now and then an octet or two shorter: draw until it fits.
        let mut padding = octets - 400;
        loop {
            let value = der::element(0x04, &vec![0x61; padding]);
            let request = honest.clone().with(oid::UNKNOWN, &value).sign(key);
            match octets.cmp(&request.len()) {
                std::cmp::Ordering::Equal => return request,
                std::cmp::Ordering::Greater => padding += (octets - request.len()).max(1),
                std::cmp::Ordering::Less => padding -= request.len() - octets,
            }
        }
    };
    let nested = |levels: usize| {
        let mut inside = vec![0x05, 0x00];
        for _ in 0..levels {
            inside = der::element(0x30, &inside);
        }
        inside
    };
    let attributes = |count: usize, each: &dyn Fn(usize) -> Vec<u8>| {
        CsrBlueprint { attributes: (0..count).map(each).collect(), ..honest.clone() }.sign(key)
    };
    let password = |number: usize| {
        let value = printable(&format!("{number}"));
        der::sequence(&[&der::object_id(attribute::CHALLENGE_PASSWORD), &der::set(&[&value])])
    };
    let (what, request, expected) = match which {
        0 => ("an octet too many", of_size(MAX_CSR_BYTES + 1), Expected::Refused),
        1 => ("eight times too large", of_size(8 * MAX_CSR_BYTES), Expected::Refused),
        2 => ("a megabyte", of_size(1 << 20), Expected::Refused),
        3 => ("as large as may be", of_size(MAX_CSR_BYTES), Expected::Same),
        4 => ("four gigabytes, it says", vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0x30], Expected::Refused),
        5 => {
            let length = [[0x30, 0x88].as_slice(), &[0x7f; 8], &random.octets(40)].concat();
            ("more than memory, it says", length, Expected::Refused)
        }
        6 => {
            ("a value 1000 levels deep", honest.with(oid::UNKNOWN, &nested(1000)).sign(key), Expected::Either)
        }
        7 => ("1500 levels deep", nested(1500), Expected::Refused),
        8 => ("250 attributes", attributes(250, &password), Expected::Either),
        9 => {
            let values: Vec<Vec<u8>> = (0..600).map(|number| printable(&format!("{number}"))).collect();
            let value = der::element(0x30, &values.concat());
            let extensions = honest.with(attribute::EXTENSION_REQUEST, &value);
            ("600 extensions that are none", extensions.sign(key), Expected::Either)
        }
        10 => {
            let one = CsrBlueprint::extension(oid::UNKNOWN, true, &[0x05, 0x00]);
            let value = der::element(0x30, &one.repeat(250));
            let extensions = honest.with(attribute::EXTENSION_REQUEST, &value);
            ("250 extensions", extensions.sign(key), Expected::Either)
        }
        11 => {
            let modulus = der::element(0x02, &[&[0x00, 0xc1], random.octets(2046).as_slice()].concat());
            let numbers = der::sequence(&[&modulus, &der::element(0x02, &[1, 0, 1])]);
            let oid = der::object_id(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01]);
            let spki = der::sequence(&[&der::sequence(&[&oid, &[0x05, 0x00]]), &der::bit_string(&numbers)]);
            ("RSA of 16384 bits", CsrBlueprint { spki, ..honest }.sign(key), Expected::Refused)
        }
        12 => {
            let part = der::name("O", "C")[2..].to_vec();
            let subject = der::element(0x30, &part.repeat(200));
            ("a subject of 400 parts", CsrBlueprint { subject, ..honest }.sign(key), Expected::Either)
        }
        13 => {
            let kind = [&[0x2b], vec![0xff; 3000].as_slice(), &[0x01]].concat();
            ("an identifier of 3000 octets", honest.with(&kind, &[0x05, 0x00]).sign(key), Expected::Either)
        }
        _ => ("a megabyte of zeros", vec![0; 1 << 20], Expected::Refused),
    };
    case(what, request, expected)
}
