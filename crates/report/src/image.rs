//! Pictures inside the file.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::escape;

/// A PNG, JPEG or WebP file, and what it shows.
#[derive(Clone, Debug)]
pub struct Image {
    kind: &'static str,
    base64: String,
    alt: String,
}

impl Image {
    /// Takes a file by its first bytes; none for one of another kind.
    pub fn of(file: &[u8], alt: impl Into<String>) -> Option<Image> {
        let kind = match file {
            [0x89, b'P', b'N', b'G', ..] => "png",
            [0xff, 0xd8, 0xff, ..] => "jpeg",
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "webp",
            _ => return None,
        };
        Some(Image { kind, base64: STANDARD.encode(file), alt: alt.into() })
    }

    /// Takes a file as [`base64`](Self::base64) gives it.
    pub fn of_base64(text: &str, alt: impl Into<String>) -> Option<Image> {
        Self::of(&STANDARD.decode(text).ok()?, alt)
    }

    /// The file, encoded.
    pub fn base64(&self) -> &str {
        &self.base64
    }

    pub(crate) fn html(&self) -> String {
        let Image { kind, base64, alt } = self;
        format!("<img class=\"sample\" alt=\"{}\" src=\"data:image/{kind};base64,{base64}\" />", escape(alt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_goes_in_whole_and_others_do_not() {
        let file = b"\x89PNG\r\n\x1a\nrest";
        let html = Image::of(file, "a \"coat\"").unwrap().html();
        // printf '\x89PNG\r\n\x1a\nrest' | base64
        assert!(html.contains("src=\"data:image/png;base64,iVBORw0KGgpyZXN0\""), "{html}");
        assert!(html.contains("alt=\"a &quot;coat&quot;\""));
        assert!(Image::of_base64("iVBORw0KGgpyZXN0", "").is_some_and(|image| image.base64() == "iVBORw0KGgpyZXN0"));
        assert!(Image::of_base64("no base64!", "").is_none());
        assert!(Image::of(b"<svg onload='x'/>", "").is_none());
    }
}
