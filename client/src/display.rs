//! Text of others as it can be shown: without characters that drive a terminal, change the direction of
//! what stands around them, or cannot be seen. What the library returns is the text as it was sent.

use std::fmt::Write as _;

/// Text on several lines, with each line after the first indented, so that none looks like one of
/// the program's own. Control characters are shown as `\u{…}`.
///
/// ```
/// use postern_client::{safe_line, safe_text};
///
/// assert_eq!(safe_text("one\ntwo\u{1b}[2J"), "one\n    two\\u{1b}[2J");
/// assert_eq!(safe_line("a\u{202e}b\nc"), "a\\u{202e}b\\nc");
/// ```
pub fn safe_text(text: &str) -> String {
    let mut lines = text.split('\n').map(safe_line);
    let mut shown = lines.next().unwrap_or_default();
    for line in lines {
        shown.push_str("\n    ");
        shown.push_str(&line);
    }
    shown
}

/// The same on one line: a title, a name, a reason.
pub fn safe_line(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, character| {
        match character {
            '\t' => shown.push('\t'),
            _ if is_unsafe(character) => {
                let _ = write!(shown, "{}", character.escape_default());
            }
            _ => shown.push(character),
        }
        shown
    })
}

/// JSON with the same characters escaped (`\u202e`), which changes nothing of its meaning: they stand in
/// strings only.
pub fn safe_json(json: &str) -> String {
    json.chars().fold(String::with_capacity(json.len()), |mut shown, character| {
        if is_unsafe(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(character);
        }
        shown
    })
}

/// Controls (C0, C1), separators of lines and paragraphs, and characters that are not seen: of direction
/// (UAX #9), tags, and others that only programs read.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_cannot_drive_the_terminal() {
        assert_eq!(safe_text("a\u{1b}[2Jb\r"), "a\\u{1b}[2Jb\\r");
        assert_eq!(safe_text("\u{9b}31m\u{7}"), "\\u{9b}31m\\u{7}");
        assert_eq!(safe_text("two\nlines"), "two\n    lines");
        assert_eq!(safe_line("two\nlines\u{2028}three"), "two\\nlines\\u{2028}three");
    }

    #[test]
    fn text_of_others_cannot_turn_around_what_stands_next_to_it() {
        for character in ["\u{202a}", "\u{202e}", "\u{2066}", "\u{2069}", "\u{200f}", "\u{61c}"] {
            let shown = safe_line(&format!("alice{character}ecila"));
            assert!(shown.is_ascii(), "{shown}");
            let json = serde_json::to_string(&format!("alice{character}ecila")).unwrap();
            let safe = safe_json(&json);
            assert!(safe.is_ascii(), "{safe}");
            assert_eq!(
                serde_json::from_str::<String>(&safe).unwrap(),
                serde_json::from_str::<String>(&json).unwrap(),
                "the meaning stays"
            );
        }
    }

    #[test]
    fn what_people_write_stays_as_it_is() {
        for text in ["Grüße, 你好, שלום, مرحبا", "👩\u{200d}👩\u{200d}👧", "a\tb"] {
            assert_eq!(safe_text(text), text);
            let json = serde_json::to_string(text).unwrap();
            assert_eq!(safe_json(&json), json);
        }
    }
}
