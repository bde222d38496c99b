//! Text of strangers, as people may read it.

/// Whether a terminal does something else with `letter` than to show it: control characters, what turns the direction
/// of writing around (UTS 55), line separators, and the invisible ones among general punctuation. Other letters that
/// nobody sees do no harm to a terminal, and are left.
#[must_use]
pub fn is_unprintable(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{061c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{feff}')
        || matches!(letter, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_every_script_are_printable_and_what_moves_a_cursor_is_not() {
        for letter in "aZ0 é漢ع\u{200d}\u{200c}-_\"'<>😀".chars() {
            assert!(!is_unprintable(letter), "{letter:?}");
        }
        for letter in "\u{1b}\n\r\t\0\u{7f}\u{9b}\u{202e}\u{2066}\u{2028}\u{feff}".chars() {
            assert!(is_unprintable(letter), "{letter:?}");
        }
    }
}
