//! QR pictures in a terminal.

use anyhow::Context as _;
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};

/// The picture of a text, two rows of it in each line. Light is what a terminal writes, because most are dark: a camera
/// takes either.
pub fn picture(text: &str) -> anyhow::Result<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).context("the text has no QR picture")?;
    let picture = code.render().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_a_square_with_a_light_frame_for_dark_terminals() {
        let picture = picture("postern-link:305718-river-orange@https://chat.example.org/").unwrap();
        let lines: Vec<Vec<char>> = picture.lines().map(|line| line.chars().collect()).collect();
        let width = lines[0].len();
        assert_eq!(lines.len(), width.div_ceil(2));
        assert!(width < 80, "{width} columns");
        assert!(lines.iter().all(|line| line.len() == width && line.iter().all(|c| " ▀▄█".contains(*c))));
        assert!(lines[0].iter().chain(&lines[1]).all(|c| *c == '█'), "{picture}");
    }

    #[test]
    fn a_picture_of_619_characters_of_the_short_forms_fits_80_columns_and_40_lines() {
        // As long is the code of a safety number where the names are long.
        let text: String = "POSTERN-SAFETY-NUMBER.".chars().chain(('A'..='Z').cycle()).take(619).collect();
        let picture = picture(&text).unwrap();
        let width = picture.lines().map(|line| line.chars().count()).max();
        assert_eq!((width, picture.lines().count()), (Some(77), 39));
    }
}
