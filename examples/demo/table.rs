//! The live table: the row under way is redrawn on a terminal; elsewhere each row is printed once, when it is final.

use std::{
    io::{IsTerminal, Write, stdout},
    time::Duration,
};

/// A share of v2 as seen on one path.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Share {
    pub(crate) seen: u64,
    pub(crate) percent: f64,
    pub(crate) p_value: f64,
    pub(crate) agrees: bool,
}

/// One step.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) wanted_percent: u32,
    pub(crate) gateway: Share,
    pub(crate) mesh: Share,
    pub(crate) failed: usize,
    /// `None`: nothing had to be edited.
    pub(crate) to_last_ack: Option<Duration>,
}

#[derive(Debug)]
pub(crate) struct Table {
    live: bool,
    final_rows: Vec<Row>,
}

impl Table {
    pub(crate) fn begin() -> Self {
        println!();
        println!("{:<19} {:>6}  {:^25}  {:^25}  {:>6}  {:>9}", "", "v2", "seen at the gateway", "seen in the mesh", "failed", "edit to");
        println!(
            "{:<19} {:>6}  {:>7} {:>6} {:>10}  {:>7} {:>6} {:>10}  {:>6}  {:>9}",
            "step", "wanted", "v2", "n", "p", "v2", "n", "p", "", "last ACK"
        );
        Self { live: stdout().is_terminal(), final_rows: Vec::new() }
    }

    pub(crate) fn announce(&self, what: &str, wanted_percent: u32) {
        if self.live {
            print!("\r\x1b[2K{what:<19} {wanted_percent:>4} %  editing virtual-service.yaml");
            let _ = stdout().flush();
        }
    }

    pub(crate) fn update(&mut self, row: &Row, is_final: bool) {
        if self.live {
            print!("\r\x1b[2K{}", text(row));
            let _ = stdout().flush();
        }
        if is_final {
            self.final_rows.push(*row);
            println!("{}", if self.live { String::new() } else { text(row) });
        }
    }

    /// How many shares do not agree with what was asked for.
    pub(crate) fn shares_off(&self) -> usize {
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
