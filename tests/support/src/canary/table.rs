//! The live table: the row under way is redrawn on a terminal; elsewhere each row is printed once, when it is final.

use std::{
    io::{IsTerminal, Write, stdout},
    time::Duration,
};

/// A share of v2 as seen on one path.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    pub(super) seen: u64,
    pub(super) percent: f64,
    pub(super) p_value: f64,
    pub(super) agrees: bool,
}

/// One step.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Row {
    pub(super) what: &'static str,
    pub(super) wanted_percent: u32,
    pub(super) gateway: Share,
    pub(super) mesh: Share,
    pub(super) failed: usize,
    /// `None`: nothing had to be edited.
    pub(super) to_last_ack: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Table {
    live: bool,
    edited: &'static str,
    final_rows: Vec<Row>,
}

impl Table {
    pub(super) fn begin(edited: &'static str) -> Self {
        println!();
        println!("{:<19} {:>6}  {:^25}  {:^25}  {:>6}  {:>9}", "", "v2", "seen at the gateway", "seen in the mesh", "failed", "edit to");
        println!(
            "{:<19} {:>6}  {:>7} {:>6} {:>10}  {:>7} {:>6} {:>10}  {:>6}  {:>9}",
            "step", "wanted", "v2", "n", "p", "v2", "n", "p", "", "last ACK"
        );
        Self { live: stdout().is_terminal(), edited, final_rows: Vec::new() }
    }

    pub(super) fn announce(&self, what: &str, wanted_percent: u32) {
        if self.live {
            print!("\r\x1b[2K{what:<19} {wanted_percent:>4} %  editing {}", self.edited);
            let _ = stdout().flush();
        }
    }

    pub(super) fn update(&mut self, row: &Row, is_final: bool) {
        if self.live {
            print!("\r\x1b[2K{}", text(row));
            let _ = stdout().flush();
        }
        if is_final {
            self.final_rows.push(*row);
            println!("{}", if self.live { String::new() } else { text(row) });
        }
    }

    /// Returns how many shares do not agree with what was asked for.
    pub(super) fn shares_off(&self) -> usize {
        self.final_rows.iter().flat_map(|row| [row.gateway, row.mesh]).filter(|share| !share.agrees).count()
    }
}

fn text(row: &Row) -> String {
    let share = |share: &Share| {
        format!(
            "{:>5.1} % {:>6} {:>9}{}",
            share.percent,
            share.seen,
            p_value(share.p_value),
            if share.agrees || share.seen == 0 { ' ' } else { '!' }
        )
    };
    let to_last_ack = row.to_last_ack.map_or_else(|| "-".to_owned(), |took| format!("{} ms", took.as_millis()));
    let (gateway, mesh) = (share(&row.gateway), share(&row.mesh));
    format!("{:<19} {:>4} %  {gateway}  {mesh}  {:>6}  {to_last_ack:>9}", row.what, row.wanted_percent, row.failed)
}

fn p_value(p_value: f64) -> String {
    if p_value >= 0.001 { format!("{p_value:.3}") } else { format!("{p_value:.0e}") }
}
