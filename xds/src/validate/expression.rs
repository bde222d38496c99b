//! Whether RE2, as Envoy runs it, takes a regular expression: octet by octet, and with a program of a bounded size.
//!
//! The expression is read by a parser of another engine, which knows more than RE2 does: what RE2 lacks is refused here by
//! name (<https://github.com/google/re2/wiki/Syntax>).

use regex_syntax::{
    ast::{
        self, AssertionKind, Ast, ClassSetItem, ClassUnicode, ClassUnicodeKind, Flag, Flags, FlagsItemKind,
        GroupKind, HexLiteralKind, Literal, LiteralKind, RepetitionKind, RepetitionRange,
    },
    hir::{Class, Hir, HirKind, translate::TranslatorBuilder},
};

/// Octets of an expression.
const LONGEST: usize = 1024;
/// Instructions of its program, by our own count: Envoy refuses more than 1,000 by its own (`re2.max_program_size` of our
/// bootstraps).
const MOST_STEPS: u64 = 950;
/// How often anything may be repeated, repetitions in repetitions multiplied (RE2's `kMaxRepeat`).
const MOST_REPEATS: u64 = 1000;
/// General categories that RE2 has, beside those of one letter.
const CATEGORIES: &[&str] = &[
    "Cc", "Cf", "Co", "Cs", "Ll", "Lm", "Lo", "Lt", "Lu", "Mc", "Me", "Mn", "Nd", "Nl", "No", "Pc", "Pd",
    "Pe", "Pf", "Pi", "Po", "Ps", "Sc", "Sk", "Sm", "So", "Zl", "Zp", "Zs",
];

/// What is wrong with an expression, if anything is.
pub(super) fn fault(expression: &str) -> Option<String> {
    if expression.len() > LONGEST {
        return Some(format!("has {} bytes, at most {LONGEST} are allowed", expression.len()));
    }
    let parsed = match ast::parse::Parser::new().parse(expression) {
        Ok(parsed) => parsed,
        Err(error) => return Some(format!("is no regular expression: {}", error.kind())),
    };
    if let Err(foreign) = ast::visit(&parsed, Foreign::default()) {
        return Some(foreign);
    }
    // RE2 reads octets here; a property of characters is what needs more.
    let is_wide = has_property(&parsed) || !expression.is_ascii();
    let mut translator = TranslatorBuilder::new().unicode(is_wide).utf8(false).build();
    match translator.translate(expression, &parsed) {
        Ok(meaning) if steps(&meaning) > MOST_STEPS => {
            Some("is too large when compiled: repeat less, or fewer kinds of characters".to_owned())
        }
        Ok(_) => None,
        Err(error) => Some(format!("is no regular expression: {}", error.kind())),
    }
}

/// Finds what RE2 does not know.
#[derive(Default)]
struct Foreign {
    /// How often what is inside of each open repetition is repeated at most.
    repeats: Vec<u64>,
}

impl ast::Visitor for Foreign {
    type Output = ();
    type Err = String;

    fn finish(self) -> Result<(), String> {
        Ok(())
    }

    fn visit_pre(&mut self, part: &Ast) -> Result<(), String> {
        match part {
            Ast::Flags(set) => check_flags(&set.flags),
            Ast::Group(group) => match &group.kind {
                GroupKind::NonCapturing(flags) => check_flags(flags),
                GroupKind::CaptureIndex(_) | GroupKind::CaptureName { .. } => Ok(()),
            },
            Ast::Literal(literal) => check_literal(literal),
            Ast::ClassUnicode(class) => check_property(class),
            Ast::Assertion(assertion) => match assertion.kind {
                AssertionKind::StartLine
                | AssertionKind::EndLine
                | AssertionKind::StartText
                | AssertionKind::EndText
                | AssertionKind::WordBoundary
                | AssertionKind::NotWordBoundary => Ok(()),
                AssertionKind::WordBoundaryStart
                | AssertionKind::WordBoundaryEnd
                | AssertionKind::WordBoundaryStartAngle
                | AssertionKind::WordBoundaryEndAngle
                | AssertionKind::WordBoundaryStartHalf
                | AssertionKind::WordBoundaryEndHalf => unknown("a begin or end of a word other than \\b"),
            },
            Ast::Repetition(repetition) => {
                if matches!(*repetition.ast, Ast::Repetition(_)) {
                    return unknown("a repetition of a repetition: put the inner one in parentheses");
                }
                let most = match repetition.op.kind {
                    RepetitionKind::Range(
                        RepetitionRange::Exactly(count)
                        | RepetitionRange::AtLeast(count)
                        | RepetitionRange::Bounded(_, count),
                    ) => u64::from(count).max(1),
                    RepetitionKind::ZeroOrOne | RepetitionKind::ZeroOrMore | RepetitionKind::OneOrMore => 1,
                };
                let all = self.repeats.last().copied().unwrap_or(1).saturating_mul(most);
                self.repeats.push(all);
                match all > MOST_REPEATS {
                    true => Err(format!("repeats something {all} times, at most {MOST_REPEATS} are allowed")),
                    false => Ok(()),
                }
            }
            Ast::Empty(_)
            | Ast::Dot(_)
            | Ast::ClassPerl(_)
            | Ast::ClassBracketed(_)
            | Ast::Alternation(_)
            | Ast::Concat(_) => Ok(()),
        }
    }

    fn visit_post(&mut self, part: &Ast) -> Result<(), String> {
        if matches!(part, Ast::Repetition(_)) {
            self.repeats.pop();
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), String> {
        match item {
            ClassSetItem::Literal(literal) => check_literal(literal),
            ClassSetItem::Range(range) => {
                check_literal(&range.start).and_then(|()| check_literal(&range.end))
            }
            ClassSetItem::Unicode(class) => check_property(class),
            ClassSetItem::Bracketed(_) => unknown("a class within a class"),
            ClassSetItem::Empty(_)
            | ClassSetItem::Ascii(_)
            | ClassSetItem::Perl(_)
            | ClassSetItem::Union(_) => Ok(()),
        }
    }

    fn visit_class_set_binary_op_pre(&mut self, _: &ast::ClassSetBinaryOp) -> Result<(), String> {
        unknown("a class less or with another (--, &&, ~~)")
    }
}

fn unknown<T>(what: &str) -> Result<T, String> {
    Err(format!("has {what}, which RE2 does not know"))
}

fn check_flags(flags: &Flags) -> Result<(), String> {
    for item in &flags.items {
        match item.kind {
            FlagsItemKind::Negation
            | FlagsItemKind::Flag(
                Flag::CaseInsensitive | Flag::MultiLine | Flag::DotMatchesNewLine | Flag::SwapGreed,
            ) => {}
            FlagsItemKind::Flag(Flag::Unicode | Flag::CRLF | Flag::IgnoreWhitespace) => {
                return unknown("a flag other than i, m, s and U");
            }
        }
    }
    Ok(())
}

fn check_literal(literal: &Literal) -> Result<(), String> {
    match literal.kind {
        LiteralKind::HexFixed(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong)
        | LiteralKind::HexBrace(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong) => {
            unknown("\\u or \\U")
        }
        LiteralKind::HexFixed(_) | LiteralKind::HexBrace(_) if u32::from(literal.c) > 0xff => {
            Err("has an escape beyond \\xFF: Envoy compares octets".to_owned())
        }
        LiteralKind::Verbatim
        | LiteralKind::Meta
        | LiteralKind::Superfluous
        | LiteralKind::Octal
        | LiteralKind::HexFixed(_)
        | LiteralKind::HexBrace(_)
        | LiteralKind::Special(_) => Ok(()),
    }
}

/// RE2 has general categories by their short names, and scripts.
fn check_property(class: &ClassUnicode) -> Result<(), String> {
    let is_known = match &class.kind {
        ClassUnicodeKind::OneLetter(letter) => "CLMNPSZ".contains(*letter),
        ClassUnicodeKind::Named(name) => {
            ["C", "L", "M", "N", "P", "S", "Z"].contains(&name.as_str())
                || CATEGORIES.contains(&name.as_str())
                || [
                    "Arabic", "Cyrillic", "Greek", "Han", "Hangul", "Hebrew", "Hiragana", "Katakana",
                    "Latin", "Thai",
                ]
                .contains(&name.as_str())
        }
        ClassUnicodeKind::NamedValue { .. } => false,
    };
    if is_known {
        Ok(())
    } else {
        unknown("a \\p that is neither a category such as \\p{Lu} nor a script such as \\p{Greek}")
    }
}

fn has_property(parsed: &Ast) -> bool {
    struct Property;
    impl ast::Visitor for Property {
        type Output = ();
        type Err = ();
        fn finish(self) -> Result<(), ()> {
            Ok(())
        }
        fn visit_pre(&mut self, part: &Ast) -> Result<(), ()> {
            if matches!(part, Ast::ClassUnicode(_)) { Err(()) } else { Ok(()) }
        }
        fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), ()> {
            if matches!(item, ClassSetItem::Unicode(_)) { Err(()) } else { Ok(()) }
        }
    }
    ast::visit(parsed, Property).is_err()
}

/// How many instructions RE2 makes of it, about.
fn steps(meaning: &Hir) -> u64 {
    match meaning.kind() {
        HirKind::Empty => 0,
        HirKind::Literal(octets) => octets.0.len() as u64,
        // Of characters beyond one octet none counts.
        HirKind::Class(Class::Unicode(class)) => {
            class.ranges().iter().filter(|range| u32::from(range.start()) <= 0xff).count().max(1) as u64
        }
        HirKind::Class(Class::Bytes(class)) => class.ranges().len().max(1) as u64,
        HirKind::Look(_) => 1,
        HirKind::Capture(group) => steps(&group.sub).saturating_add(2),
        HirKind::Concat(parts) => parts.iter().map(steps).fold(0, u64::saturating_add),
        HirKind::Alternation(ways) => {
            ways.iter().map(|way| steps(way).saturating_add(1)).fold(0, u64::saturating_add)
        }
        HirKind::Repetition(repetition) => {
            let (once, least) = (steps(&repetition.sub), u64::from(repetition.min));
            match repetition.max {
                None => once.saturating_mul(least.max(1)).saturating_add(1),
                Some(most) => {
                    let more = u64::from(most).saturating_sub(least);
                    once.saturating_mul(least).saturating_add(more.saturating_mul(once.saturating_add(1)))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_re2_takes_is_taken_and_what_it_refuses_is_refused() {
        for good in [
            "/.*",
            "/v1/users/[^/]+/items/\\d+",
            "/\\d{1,64}/\\d{1,64}",
            "/v1/users/\\w{1,64}/items/\\w{1,64}",
            "(?i)/a(b|c)*",
            "(?P<name>a+)(?:b?){3}",
            "/a{900}",
            "/(?:a{30}){30}",
            "/\\p{Lu}\\pL\\p{Greek}",
            "/[\\x00-\\xff]+é",
            "^/a$|\\A/b\\z",
            "",
        ] {
            assert_eq!(fault(good), None, "{good}");
        }
        for bad in [
            "(a",
            "(?=a)",
            "\\1",
            "/a{1001}",
            "/(a{40}){40}",
            "/a**",
            "/a{2}{3}",
            "/\\p{Alphabetic}+",
            "/\\p{Letter}",
            "/\\p{Script=Greek}",
            "/\\p{greek}",
            "/[a--b]",
            "/[a-z&&[^b]]",
            "/[[a]b]",
            "/\\x{1F600}",
            "/\\u0041",
            "(?ix)/ a",
            "(?-u)/a",
            "\\b{start}a",
            "/(a|b|c)[a-z0-9_]{1,255}",
            "(a{1000}){1000}",
        ] {
            assert!(fault(bad).is_some(), "{bad}");
        }
        assert!(fault(&"a".repeat(LONGEST + 1)).unwrap().contains("1025 bytes"));
    }
}
