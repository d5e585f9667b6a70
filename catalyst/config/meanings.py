"""Meanings: one sentence for each key of config.yaml and for each environment variable.

docs/configuration.md, config.yaml, the JSON schema and `catalyst init` show them.
"""

from typing import Final

KEY_MEANINGS: Final = {
    "trading.mode": "null: paper when Alpaca's keys are set, else sim",
    "trading.allow_short": "true needs a restart, and an account that may sell short",
    "trading.manage_account_locks": "at start, set the account's no_shorting option where it differs from allow_short",
    "trading.account_number": "live only: must equal the account of the keys, or the daemon does not start",
    "broker.simulator": "the address of `catalyst sim`",
    "broker.feed": "sip needs Alpaca's paid data plan; `catalyst check` tells whether the account has it",
    "broker.requests_per_minute": "the account's rate limit",
    "broker.data_requests_per_minute": "the rate limit of market data",
    "broker.reserved_for_exits": "part of the rate limit that entries and polling never use",
    "database.data_dir": (
        "of the embedded PostgreSQL, used without DATABASE_URL; null: ~/.local/share/catalyst/pg"
    ),
    "database.spool": "folder of the actions of a database outage, until imported; null: next to data_dir",
    "database.proofs": "folder of the flat proofs, one file each; null: next to data_dir",
    "database.keep_scan_frames_days": (
        "older frames of scans (every symbol with the stage that refused it) are deleted after the close; all results "
        "stay"
    ),
    "database.backups": "folder of the backups that `catalyst backup` writes; null: next to data_dir",
    "database.keep_backup_days": "days with a backup that are kept; the newest of each day",
    "database.backup_recipient": "key for which every backup is encrypted: age1... by age, else a key of gpg",
    "database.warn_backup_age_hours": (
        "`catalyst doctor` and an alert name an older last backup, except in sim; 0: never, the server has its own"
    ),
    "session.mode": (
        "supervised: each trade waits for `catalyst approve`; autonomous also needs workflow.auto_execute and "
        "ENABLE_AUTONOMOUS_TRADING=true, and a restart"
    ),
    "session.timezone": "the exchange's (US/Eastern is its old name); no other value is accepted",
    "session.flat_before_close_minutes": (
        "the day's exits begin this long before the actual close, on half days too"
    ),
    "session.no_entries_before_close_minutes": "no entry begins this long before the actual close",
    "session.proposal_expires_minutes": (
        "supervised: a proposal without a decision is withdrawn after this time"
    ),
    "session.market_open": "retired: the exchange calendar decides; ignored with a notice",
    "session.market_close": "retired: the exchange calendar decides; ignored with a notice",
    "workflow.auto_execute": "one of the three switches of autonomous trading",
    "workflow.execute_top_n": "most entries of one scan",
    "workflow.scan_frequency_minutes": "0: only 10:30, 12:00 and 14:00, besides the opening scans",
    "features.news_sentiment": "false: the news score is neutral",
    "features.pattern_detection": "false: the pattern score is neutral",
    "features.autonomous_trading": "better set by ENABLE_AUTONOMOUS_TRADING in the environment",
    "features.email_alerts": "true: alerts are sent by mail; needs SMTP_HOST and ALERT_EMAIL_CRITICAL",
    "universe.listings_file": (
        "CSV with symbol, name, sector (brokers send no sectors); unknown sectors count as one"
    ),
    "universe.exchanges": "only stocks listed there",
    "universe.allow": "when not empty, only these symbols; brk-b and BRK/B are read as BRK.B",
    "universe.deny": "never these; a name that no listing has fails `catalyst check` and raises an alert",
    "scan.max_candidates": "most candidates of a scan; all of them are stored",
    "scan.min_price": "dollars a share",
    "scan.max_price": "dollars a share",
    "scan.min_dollar_volume": "average of 20 days, dollars a day",
    "scan.min_relative_volume": "volume so far over the usual volume by this minute",
    "scan.max_spread_bps": "wider than risk's limit: a spread may narrow before the entry",
    "scan.max_trade_age_seconds": "an older last trade refuses the stock",
    "scan.max_quote_age_seconds": "an older quote refuses the stock",
    "scan.max_quote_distance_pct": "between the last trade and the middle of the quote",
    "scan.min_history_days": "daily bars needed for the usual volume",
    "scan.weight_volume": "of the scan's score; the four weights sum to 1",
    "scan.weight_momentum": "of the scan's score",
    "scan.weight_gap": "of the scan's score",
    "scan.weight_liquidity": "of the scan's score",
    "news.max_symbols": "news is read for this many of the best by scan score",
    "news.max_candidates": "most candidates after the news stage",
    "news.lookback_hours": "older headlines are not read",
    "news.half_life_hours": "age at which a headline has half its weight",
    "news.veto_score": "at or below this news score a stock is refused in long-only trading",
    "pipeline.require_pattern": "false: a candidate without a pattern may be traded, with percentage levels",
    "pipeline.bar_minutes": "length of the intraday bars that the stages read",
    "pattern.max_candidates": "most candidates after the pattern stage",
    "pattern.min_confidence": "a pattern below it does not count",
    "pattern.max_trigger_age_minutes": "oldest crossing of the trigger",
    "pattern.max_bar_age_minutes": "oldest end of the last bar",
    "pattern.opening_range_minutes": "length of the opening range",
    "pattern.pivot_minutes": "a pivot is the extreme of this time on both sides",
    "pattern.max_extension": "part of the way from trigger to target already moved",
    "technical.max_candidates": "most candidates after the technical stage",
    "technical.min_votes": "indicators that must have enough bars to vote",
    "technical.min_agreement": "part of the votes that must agree with the side",
    "technical.weight_intraday": "of the timeframes that have a vote; scaled to sum to 1",
    "technical.weight_quarter_hour": "of the 15-minute bars",
    "technical.weight_daily": "of the daily bars",
    "technical.max_rsi": "above it a move is exhausted (shorts: below 100 minus it)",
    "technical.max_move_atr": "from the open, in daily ATRs",
    "technical.max_vwap_distance_atr": "from the day's VWAP, in daily ATRs",
    "scoring.news": "weight in the composite score; the four weights sum to 1",
    "scoring.technical": "weight in the composite score",
    "scoring.momentum": "weight in the composite score",
    "scoring.volume": "weight in the composite score",
    "scoring.min_composite": "a lower composite score refuses the candidate",
    "risk.max_candidates": "most approved candidates of a scan",
    "risk.max_daily_loss": ("realised and unrealised; reaching it closes every position and stops the day"),
    "risk.warning_threshold_pct": "of the daily loss limit: raises an alert",
    "risk.max_positions": "open positions and working entries together",
    "risk.max_position_size": "dollars in one position",
    "risk.min_position_size": "dollars; a smaller position is not entered",
    "risk.risk_per_trade_pct": "of equity, lost if the stop fills at its price",
    "risk.max_sector_exposure_pct": "of max_positions times max_position_size",
    "risk.max_correlation": "with any open position or working entry",
    "risk.max_participation_pct": "of the stock's volume in a usual minute",
    "risk.max_spread_bps": "a wider spread refuses the entry",
    "risk.min_reward_risk": "target distance over stop distance",
    "risk.min_stop_atr": "bar ATRs; a closer stop is moved out to this distance",
    "risk.max_stop_pct": "a chart's stop farther away is not used",
    "daily_limits.emergency_stop_at_100": (
        "at the daily loss limit: exit every position, no entry before `catalyst resume`"
    ),
    "sector_limits.sectors_to_limit": (
        "empty: every sector; names as in universe.listings_file, Financial and Healthcare too"
    ),
    "correlation.check_enabled": "false: the correlation is not checked",
    "positions.default_stop_loss_pct": "of the entry price; used when no chart pattern gives a level",
    "positions.default_take_profit_pct": "of the entry price; used when no chart pattern gives a level",
    "positions.max_hold_time_minutes": "an older position is exited",
    "positions.close_all_at_market_close": "false: positions stay overnight under a stop and a target",
    "emergency.close_all_positions_on_limit": "false: positions stay under their stops at the limit",
    "emergency.halt_new_trades": "false: entries continue after all positions were exited",
    "emergency.send_email_alert": "false: the alert of an emergency stop is not sent",
    "emergency.cooldown_period_minutes": "shortest length of an emergency stop",
    "plan.entry_type": "the order type of an entry",
    "plan.collar_bps": "the entry limit's distance beyond the opposite quote",
    "execution.partial_entry_grace_seconds": (
        "then the rest of a partly filled entry is cancelled and the filled shares protected"
    ),
    "execution.entry_timeout_seconds": "an entry not filled after this time is cancelled",
    "execution.signal_max_age_seconds": "an older signal is not sent",
    "execution.order_poll_seconds": (
        "when the stream sends nothing, a fill stays unprotected no longer than this"
    ),
    "execution.position_poll_seconds": "time between two reads of the positions",
    "stop_monitor.every_seconds": "time between two checks of every position",
    "stop_monitor.unprotected_every_seconds": "while a position is unprotected",
    "stop_monitor.grace_seconds": "time for the broker's own stop to act first",
    "stop_monitor.stale_after_seconds": "an older price triggers no stop",
    "reconcile.every_seconds": "live: 120 at most",
    "reconcile.orphans": (
        "orphan shares of our symbols (traded in the last 14 days); protect: shares bought by hand today become a "
        "position, exited like ours, others get a stop at the broker until you sell them; close: sell them. Other "
        "symbols are only reported"
    ),
    "protection.unprotected_budget_seconds": "a position unprotected for longer raises an alert",
    "shutdown.on_sigterm": "keep: keep positions with their stops at the broker",
    "shutdown.on_sigint": "ask: only on a terminal, elsewhere as SIGTERM",
    "shutdown.latch_after_flatten": "entries after a SIGTERM that sold: from the next session on, or after `resume`",
    "shutdown.flatten_timeout_seconds": "must be below the service manager's stop timeout",
    "log.level": "lines below this level are not written",
    "log.format": "auto: JSON lines, or colour on a terminal",
    "monitoring.port": "serve /health and /metrics on 127.0.0.1 (docs/monitoring.md); null: off",
}

# Also shown above the section in config.yaml and in docs/configuration.md.
SECTION_MEANINGS: Final = {
    "trading": "The account, and whether money is real.",
    "broker": "The simulated exchange, the data feed and the rate limits.",
    "database": "Folders of the database and of the files beside it.",
    "session": "The trading day.",
    "workflow": "How often Catalyst scans, and how many trades a scan makes.",
    "features": "Stages and services that can be switched off.",
    "universe": "The symbols that may be traded.",
    "scan": "The scan stage: price, volume, spread and age of the data.",
    "news": "The news stage.",
    "pipeline": "Settings that several stages share.",
    "pattern": "The chart pattern stage.",
    "technical": "The indicator stage.",
    "scoring": "The composite score: the sum of weight times component.",
    "risk": "Limits of the account and of each trade.",
    "daily_limits": "The daily loss limit.",
    "sector_limits": "The sector limit.",
    "correlation": "The correlation limit.",
    "positions": "Levels and life of a position.",
    "emergency": "The emergency stop.",
    "plan": "The entry order.",
    "execution": "Life of an entry, and polling.",
    "stop_monitor": "The daemon's own stops, for shares without a stop at the broker.",
    "reconcile": "Comparison of database, journal, the broker's orders and the broker's shares.",
    "protection": "The stops at the broker.",
    "shutdown": "The end of the daemon.",
    "log": "The log.",
    "monitoring": "/health and /metrics, for a machine that watches.",
}

VARIABLE_MEANINGS: Final = {
    "database_url": (
        "address of a PostgreSQL server (15 to 18): postgresql://user:password@host:5432/database; without it the "
        "embedded server is used"
    ),
    "alpaca_api_key": "key of the paper or live account",
    "alpaca_secret_key": "secret of the paper or live account",
    "alpaca_base_url": "never selects the account; refused when it contradicts trading.mode",
    "alpaca_paper": "never selects the account; refused when it contradicts trading.mode",
    "trading_mode": "used when trading.mode is null; never selects live",
    "enable_paper_trading": "refused when it contradicts trading.mode",
    "enable_live_trading": "live trading needs it, beside trading.mode: live and trading.account_number",
    "max_daily_loss": "a value that differs from the file's is reported",
    "max_position_size": "a value that differs from the file's is reported",
    "max_positions": "a value that differs from the file's is reported",
    "trading_session_mode": "as its key",
    "workflow_auto_execute": "as its key",
    "workflow_scan_frequency_minutes": "as its key",
    "workflow_execute_top_n": "as its key",
    "enable_email_alerts": "as its key",
    "enable_news_sentiment": "as its key",
    "enable_pattern_detection": "as its key",
    "enable_autonomous_trading": "one of the three switches of autonomous trading",
    "smtp_host": "mail server of the alerts",
    "smtp_port": "587 and 2525: STARTTLS; 465: TLS from the first byte",
    "smtp_username": "login at the mail server; with SMTP_PASSWORD or not at all",
    "smtp_password": "password at the mail server; many providers need an app password",
    "smtp_from": "sender of the alerts; without it SMTP_USERNAME",
    "smtp_tls": "false: no STARTTLS",
    "alert_email_critical": "mail addresses of critical alerts, separated by commas",
    "alert_email_warning": "mail addresses of warnings",
    "alert_email_info": "mail addresses of messages that ask for nothing",
    "alert_url_critical": "Apprise URLs (Telegram, Slack, ...) of critical alerts, separated by commas",
    "alert_url_warning": "Apprise URLs of warnings",
    "alert_url_info": "Apprise URLs of messages that ask for nothing",
    "news_api_key": "ignored with a notice: headlines come from Alpaca",
    "benzinga_api_key": "ignored with a notice",
    "notify_socket": "set by systemd",
    "watchdog_usec": "set by systemd",
    "log_level": "as its key, in upper or lower case",
    "log_format": "as its key; another value belongs to another program and is ignored",
    "risk_hot_reload": (
        "false: risk, daily_limits, sector_limits, correlation, positions and emergency wait for a restart"
    ),
    "trading_hot_reload": "false: all other sections wait for a restart",
    "redis_host": "ignored with a notice: the daemon needs no cache server",
    "redis_port": "ignored with a notice",
    "redis_db": "ignored with a notice",
    "redis_password": "ignored with a notice",
    "redis_url": "ignored with a notice",
    "catalyst_clock": "file of a shared scaled clock, for the demo and practice",
    "catalyst_clock_speed": "market seconds per real second of that clock",
    "catalyst_clock_held_speed": "market seconds per real second while a request is in flight",
    "xdg_data_home": "folder of the embedded database's folder; without it ~/.local/share",
}
