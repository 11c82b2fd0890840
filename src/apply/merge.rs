//! Can a text that was changed on two sides have both changes?

use diffy::{ConflictStyle, MergeOptions};

/// What comes of two texts with a common base.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Merged {
    /// Both changes.
    Clean(Vec<u8>),
    /// Where they contradict each other, both are there, with marks.
    Marked(String),
    /// One of them is no text.
    NoText,
}

/// So much of a file tells whether it is text, as git has it.
const FIRST: usize = 8000;

/// Merges what is outside and what the run has.
pub(super) fn merge(before: &[u8], outside: &[u8], run: &[u8], name: &str) -> Merged {
    let is_text = |data: &[u8]| !data[..data.len().min(FIRST)].contains(&0);
    if ![before, outside, run].into_iter().all(is_text) {
        return Merged::NoText;
    }
    let mut options = MergeOptions::new();
    options.set_conflict_style(ConflictStyle::Diff3);
    match options.merge_bytes(before, outside, run) {
        Ok(data) => Merged::Clean(data),
        Err(marked) => {
            // It calls the sides by words of its own.
            let label = |line: &str| match line {
                "<<<<<<< ours" => "<<<<<<< outside".to_owned(),
                "||||||| original" => "||||||| before".to_owned(),
                ">>>>>>> theirs" => format!(">>>>>>> run {name}"),
                line => line.to_owned(),
            };
            let text = String::from_utf8_lossy(&marked).into_owned();
            Merged::Marked(text.lines().map(|line| label(line) + "\n").collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_in_different_places_are_both_made() {
        let before = b"a\nb\nc\nd\ne\n";
        let merged = merge(before, b"A\nb\nc\nd\ne\n", b"a\nb\nc\nd\nE\n", "r");
        assert_eq!(merged, Merged::Clean(b"A\nb\nc\nd\nE\n".to_vec()));
    }

    #[test]
    fn a_contradiction_is_marked_with_all_three() {
        let Merged::Marked(text) = merge(b"a\n", b"b\n", b"c\n", "try") else { panic!("marked") };
        assert_eq!(text, "<<<<<<< outside\nb\n||||||| before\na\n=======\nc\n>>>>>>> run try\n");
        assert_eq!(merge(b"\0", b"b\n", b"c\n", "try"), Merged::NoText);
    }
}
