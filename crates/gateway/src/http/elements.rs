//! Where the elements of a broken JSON array begin and end, so that one that is no JSON does not spoil the others.

/// The elements of an array's text, one after the other. Never fails: whatever lies between two commas outside of brackets
/// and strings is an element.
#[derive(Debug)]
pub struct Elements<'a> {
    /// What is left to look at; `None` behind the last element.
    rest: Option<&'a [u8]>,
    ends: bool,
}

impl<'a> Elements<'a> {
    /// Of an array's text, from its bracket on.
    pub fn of(array: &'a [u8]) -> Self {
        Self { rest: Some(array.strip_prefix(b"[").unwrap_or(array)), ends: false }
    }

    /// Whether the text ended as an array does. Known behind the last element.
    pub fn ends(&self) -> bool {
        self.ends
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest.take()?;
        let (mut depth, mut in_string, mut escaped) = (0u32, false, false);
        for (at, byte) in rest.iter().enumerate() {
            if in_string {
                in_string = escaped || *byte != b'"';
                escaped = !escaped && *byte == b'\\';
                continue;
            }
            match byte {
                b'"' => in_string = true,
                b'[' | b'{' => depth += 1,
                b']' if depth == 0 => {
                    self.ends = rest[at + 1..].trim_ascii().is_empty();
                    return Some(&rest[..at]);
                }
                b']' | b'}' => depth = depth.saturating_sub(1),
                b',' if depth == 0 => {
                    self.rest = Some(&rest[at + 1..]);
                    return Some(&rest[..at]);
                }
                _ => {}
            }
        }
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(array: &str) -> (Vec<&str>, bool) {
        let mut elements = Elements::of(array.as_bytes());
        let texts = elements.by_ref().map(|element| std::str::from_utf8(element).unwrap()).collect();
        (texts, elements.ends())
    }

    #[test]
    fn elements_end_at_commas_outside_of_brackets_and_strings() {
        assert_eq!(
            texts(r#"[{"a": [1, 2]}, NaN,"x,]\"," ] "#),
            (vec![r#"{"a": [1, 2]}"#, " NaN", r#""x,]\"," "#], true)
        );
        assert_eq!(texts("[1, 2"), (vec!["1", " 2"], false));
        assert_eq!(texts("[1] 2"), (vec!["1"], false));
        assert_eq!(texts(r#"[1, "2, 3]"#), (vec!["1", r#" "2, 3]"#], false));
    }
}
