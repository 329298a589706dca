//! Pointer and keyboard, as the browser gets them from a person.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::page::{Page, paths};
use crate::{Error, shown};

/// Scrolls an element into view, waits until it stays where it is for a frame, and tells where that is and what the pointer would meet in its
/// middle. One that never rests is taken where it was last.
const PLACE: &str = "(async selector => {
    const element = document.querySelector(selector);
    if (!element) return null;
    element.scrollIntoView({block: 'center', inline: 'center', behavior: 'instant'});
    const frame = () => new Promise(resolve => requestAnimationFrame(resolve));
    let box = element.getBoundingClientRect();
    for (let frames = 0; frames < 60; frames++) {
        await frame();
        await frame();
        const last = box;
        box = element.getBoundingClientRect();
        if (['x', 'y', 'width', 'height'].every(side => box[side] === last[side])) break;
    }
    const there = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    const inside = there && (element.contains(there) || there.contains(element) && there.closest('label'));
    const by = inside ? null : there ? there.outerHTML.slice(0, 80) : 'nothing';
    return {x: box.x, y: box.y, width: box.width, height: box.height, by};
})";

/// Keys that are no characters: name, code, Windows virtual key code, text.
const KEYS: [(&str, &str, u32, &str); 15] = [
    ("Tab", "Tab", 9, ""),
    ("Enter", "Enter", 13, "\r"),
    ("Escape", "Escape", 27, ""),
    ("Space", "Space", 32, " "),
    ("PageUp", "PageUp", 33, ""),
    ("PageDown", "PageDown", 34, ""),
    ("End", "End", 35, ""),
    ("Home", "Home", 36, ""),
    ("ArrowLeft", "ArrowLeft", 37, ""),
    ("ArrowUp", "ArrowUp", 38, ""),
    ("ArrowRight", "ArrowRight", 39, ""),
    ("ArrowDown", "ArrowDown", 40, ""),
    ("Backspace", "Backspace", 8, ""),
    ("Delete", "Delete", 46, ""),
    ("Shift", "ShiftLeft", 16, ""),
];

const CONTROL: u32 = 2;
const SHIFT: u32 = 8;

/// Of an element, in pixels of the viewport.
#[derive(Debug, Clone, Copy)]
struct Place {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

#[derive(Debug, Deserialize)]
struct Found {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    by: Option<String>,
}

impl Place {
    /// A point at this share of the width and half the height; the ends lie a pixel within.
    fn at(&self, share: f64) -> (f64, f64) {
        let across = (self.width * share).clamp(1.0, (self.width - 1.0).max(1.0));
        (self.x + across, self.y + self.height / 2.0)
    }
}

impl Page {
    /// Clicks on the middle of an element.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] without such an element, [`Error::Covered`] if another lies over it.
    pub fn click(&self, selector: &str) -> Result<(), Error> {
        let point = self.place(selector)?.at(0.5);
        self.pointer("mouseMoved", point, 0)?;
        self.pointer("mousePressed", point, 1)?;
        self.pointer("mouseReleased", point, 0)
    }

    /// Presses the pointer at a share of an element's width, moves it to another in `steps` and lets it go: a slider is dragged.
    ///
    /// # Errors
    ///
    /// As [`Page::click`].
    pub fn drag(&self, selector: &str, from: f64, to: f64, steps: u32) -> Result<(), Error> {
        self.drag_with(selector, from, to, steps, |_| Ok(()))
    }

    /// [`Page::drag`] with a call after each step.
    ///
    /// # Errors
    ///
    /// As [`Page::click`], and those of `between`.
    pub fn drag_with(
        &self,
        selector: &str,
        from: f64,
        to: f64,
        steps: u32,
        mut between: impl FnMut(u32) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let place = self.place(selector)?;
        self.pointer("mouseMoved", place.at(from), 0)?;
        self.pointer("mousePressed", place.at(from), 1)?;
        for step in 1..=steps {
            let share = from + (to - from) * f64::from(step) / f64::from(steps);
            self.pointer("mouseMoved", place.at(share), 1)?;
            between(step)?;
        }
        self.pointer("mouseReleased", place.at(to), 0)
    }

    /// Drops files on an element, as from a file manager.
    ///
    /// # Errors
    ///
    /// As [`Page::click`].
    pub fn drop_files(&self, selector: &str, files: &[impl AsRef<Path>]) -> Result<(), Error> {
        let (x, y) = self.place(selector)?.at(0.5);
        // 1: they may be copied.
        let data = json!({"items": [], "files": paths(files), "dragOperationsMask": 1});
        for kind in ["dragEnter", "dragOver", "drop"] {
            self.call("Input.dispatchDragEvent", json!({"type": kind, "x": x, "y": y, "data": data}))?;
        }
        Ok(())
    }

    /// Presses and releases a key: a character, a name such as `Tab`, `Enter`, `ArrowUp`, or one of them behind `Shift+` or `Control+`.
    ///
    /// # Errors
    ///
    /// [`Error::Key`] for an unknown one.
    pub fn press(&self, key: &str) -> Result<(), Error> {
        let (modifiers, name) = match key.split_once('+') {
            Some(("Shift", name)) => (SHIFT, name),
            Some(("Control", name)) => (CONTROL, name),
            _ => (0, key),
        };
        let mut characters = name.chars();
        let (name, code, number, text) = match KEYS.iter().find(|(known, ..)| *known == name) {
            Some((known, code, number, text)) => {
                (if *known == "Space" { " " } else { known }, (*code).to_owned(), *number, *text)
            }
            None => match (characters.next(), characters.next()) {
                (Some(character), None) => {
                    let (code, number) = place_of(character);
                    (name, code, number, name)
                }
                _ => return Err(Error::Key(key.to_owned())),
            },
        };
        let text = if modifiers == CONTROL { "" } else { text };
        // An editing command does not follow from the keys without a desktop.
        let commands: &[&str] = if modifiers == CONTROL && name == "a" { &["selectAll"] } else { &[] };
        let kind = if text.is_empty() { "rawKeyDown" } else { "keyDown" };
        let mut event = json!({"type": kind, "key": name, "code": code, "windowsVirtualKeyCode": number,
            "modifiers": modifiers, "text": text, "commands": commands});
        self.call("Input.dispatchKeyEvent", event.clone())?;
        if let Some(event) = event.as_object_mut() {
            event.insert("type".into(), "keyUp".into());
            event.remove("text");
            event.remove("commands");
        }
        self.call("Input.dispatchKeyEvent", event).map(drop)
    }

    /// Types characters where the focus is.
    ///
    /// # Errors
    ///
    /// If the browser has gone.
    pub fn type_text(&self, text: &str) -> Result<(), Error> {
        text.chars().try_for_each(|character| self.press(&character.to_string()))
    }

    /// Clicks into a field and types over what it holds.
    ///
    /// # Errors
    ///
    /// As [`Page::click`].
    pub fn fill(&self, selector: &str, text: &str) -> Result<(), Error> {
        self.click(selector)?;
        self.press("Control+a")?;
        self.press("Delete")?;
        self.type_text(text)
    }

    fn place(&self, selector: &str) -> Result<Place, Error> {
        let found: Option<Found> = self.evaluate(&format!("{PLACE}({})", Value::from(selector)))?;
        let Found { x, y, width, height, by } = found.ok_or_else(|| Error::Missing(selector.to_owned()))?;
        match by {
            Some(by) => Err(Error::Covered { selector: selector.to_owned(), by: shown(&by) }),
            None => Ok(Place { x, y, width, height }),
        }
    }

    fn pointer(&self, kind: &str, (x, y): (f64, f64), buttons: u32) -> Result<(), Error> {
        let button = if kind == "mouseMoved" && buttons == 0 { "none" } else { "left" };
        let event = json!({"type": kind, "x": x, "y": y, "button": button, "buttons": buttons,
            "clickCount": u32::from(kind != "mouseMoved")});
        self.call("Input.dispatchMouseEvent", event).map(drop)
    }
}

/// Code and virtual key code of a character; empty and 0 where they depend on the keyboard.
fn place_of(character: char) -> (String, u32) {
    match character {
        'a'..='z' | 'A'..='Z' => {
            let upper = character.to_ascii_uppercase();
            (format!("Key{upper}"), u32::from(upper))
        }
        '0'..='9' => (format!("Digit{character}"), u32::from(character)),
        '-' => ("Minus".into(), 189),
        '.' => ("Period".into(), 190),
        _ => (String::new(), 0),
    }
}
