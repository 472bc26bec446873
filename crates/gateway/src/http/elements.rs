//! Where the elements of a broken JSON array begin and end, so that one that is no JSON does not spoil the others.

/// The elements of an array's text (from its bracket on), as they are, and whether it ends as an array does. Never fails:
/// whatever lies between two commas outside of brackets and strings is an element.
pub fn split(array: &[u8]) -> (Vec<&[u8]>, bool) {
    let inner = array.strip_prefix(b"[").unwrap_or(array);
    let mut elements = Vec::new();
    let (mut depth, mut in_string, mut escaped, mut start) = (0u32, false, false, 0);
    for (at, byte) in inner.iter().enumerate() {
        if in_string {
            in_string = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' if depth == 0 => {
                elements.push(&inner[start..at]);
                return (elements, inner[at + 1..].trim_ascii().is_empty());
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                elements.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    elements.push(&inner[start..]);
    (elements, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(array: &str) -> (Vec<&str>, bool) {
        let (elements, ends) = split(array.as_bytes());
        (elements.into_iter().map(|element| std::str::from_utf8(element).unwrap()).collect(), ends)
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
