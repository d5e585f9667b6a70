"""OpenAPI documents of the broker's two APIs, written by us from facts: names, types and required fields.

A clone without the broker's documents checks the exchange against these. They allow no other field, so they are
stricter; `with_legacy_fields` adds the fields that the broker removed in 2026.

A field is `name:type`. In a response `name~` may be absent; in a request `name!` is required. Types:
`text?` may be null, `[bar]` is a list, `{bar}` maps symbols to bars, `buy|sell` are the only values, `fill/fee` is
one of two rows, `1..50` is an integer between bounds; other names are those of SIMPLE_TYPES and ROWS.
"""

import re
from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

SIMPLE_TYPES: Mapping[str, Schema] = {
    "text": {"type": "string"},
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "decimal": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?$"},
    "uuid": {"type": "string", "format": "uuid", "pattern": r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
    "instant": {
        "type": "string",
        "format": "date-time",
        "pattern": r"^[0-9]{4}(-[0-9]{2}){2}T([0-9]{2}:){2}[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$",
    },
    "day": {"type": "string", "format": "date", "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"},
    "hour": {"type": "string", "pattern": r"^[0-9]{2}:[0-9]{2}$"},
    "short_hour": {"type": "string", "pattern": r"^[0-9]{4}$"},
    "activity_id": {"type": "string", "pattern": r"^[0-9]{17}::.+$"},
    "no_rows": {"type": "array", "items": {"type": "object"}, "maxItems": 0},
    "empty": {"type": "object", "maxProperties": 0},
}

ACTIVITY_TYPES = (
    "FILL|TRANS|MISC|ACATC|ACATS|CFEE|CGD|CSD|CSW|DIV|DIVCGL|DIVCGS|DIVFEE|DIVFT|DIVNRA|DIVROC|DIVTW|DIVTXEX|FEE|INT|"
    "INTNRA|INTTW|JNL|JNLC|JNLS|MA|NC|OPASN|OPCA|OPCSH|OPEXC|OPEXP|OPTRD|PTC|PTR|REORG|SPIN|SPLIT|FOPT"
)
ACCOUNT_STATUS = (
    "INACTIVE|ONBOARDING|SUBMISSION_FAILED|SUBMITTED|ACCOUNT_UPDATED|APPROVAL_PENDING|ACTIVE|REJECTED|"
    "PAPER_ONLY|ACCOUNT_CLOSED|APPROVED|ACCOUNT_CLOSED_PENDING|ACTION_REQUIRED|LIMITED"
)
ORDER_STATUS = (
    "new|partially_filled|filled|done_for_day|canceled|expired|replaced|pending_cancel|pending_replace|accepted|"
    "pending_new|accepted_for_bidding|stopped|rejected|suspended|calculated|held"
)
ORDER_TYPE = "market|limit|stop|stop_limit|trailing_stop"
ORDER_CLASS = "|simple|bracket|oco|oto|mleg"
TIME_IN_FORCE = "day|gtc|opg|cls|ioc|fok"
INTENT = "buy_to_open|buy_to_close|sell_to_open|sell_to_close"
ASSET_CLASS = "us_equity|us_option|crypto|ipo"
LISTING_EXCHANGE = "AMEX|ARCA|BATS|NYSE|NASDAQ|NYSEARCA|OTC"

_ORDER_WITHOUT_LEGS = f"""
    id:uuid client_order_id:text created_at:instant updated_at:instant? submitted_at:instant? filled_at:instant?
    expired_at:instant? canceled_at:instant? failed_at:instant? replaced_at:instant? cancel_requested_at:instant?
    expires_at:instant? replaced_by:uuid? replaces:uuid? asset_id:uuid symbol:text asset_class:{ASSET_CLASS}
    notional:decimal? qty:decimal? filled_qty:decimal filled_avg_price:decimal? order_class:{ORDER_CLASS}
    order_type:{ORDER_TYPE} type:{ORDER_TYPE} side:buy|sell position_intent:{INTENT}
    time_in_force:{TIME_IN_FORCE} limit_price:decimal? stop_price:decimal? status:{ORDER_STATUS}
    extended_hours:boolean trail_percent:decimal? trail_price:decimal? hwm:decimal? subtag:text? source:text?
"""
_WATCHLIST = "id:uuid account_id:uuid created_at:instant updated_at:instant name:text"
_MOVEMENT = """
    id:activity_id date:day created_at:instant net_amount:decimal currency:USD| status:executed|correct|canceled
"""
_PAGED = "next_page_token:text?"

ROWS: Mapping[str, str] = {
    "account": f"""
        id:uuid account_number:text status:{ACCOUNT_STATUS} crypto_status:{ACCOUNT_STATUS} currency:text
        buying_power:decimal regt_buying_power:decimal non_marginable_buying_power:decimal
        options_buying_power:decimal cash:decimal accrued_fees:decimal pending_transfer_in:decimal
        pending_transfer_out:decimal portfolio_value:decimal trading_blocked:boolean transfers_blocked:boolean
        account_blocked:boolean trade_suspended_by_user:boolean created_at:instant multiplier:decimal
        shorting_enabled:boolean equity:decimal last_equity:decimal long_market_value:decimal
        short_market_value:decimal position_market_value:decimal initial_margin:decimal
        maintenance_margin:decimal last_maintenance_margin:decimal sma:decimal intraday_adjustments:decimal
        balance_asof:day
    """,
    "configuration": """
        no_shorting:boolean suspend_trade:boolean fractional_trading:boolean max_margin_multiplier:text
        trade_confirm_email:text ptp_no_exception_entry:boolean disable_overnight_trading:boolean
        max_options_trading_level:0..3
    """,
    "fill": f"""
        id:activity_id activity_type:FILL| transaction_time:instant type:fill|partial_fill price:decimal qty:decimal
        side:buy|sell symbol:text leaves_qty:decimal order_id:uuid cum_qty:decimal order_status:{ORDER_STATUS}
    """,
    "transfer": f"activity_type:CSD|CSW {_MOVEMENT}",
    "fee": f"activity_type:FEE| activity_sub_type:text description:text {_MOVEMENT}",
    "history": """
        timestamp:[integer] equity:[number] profit_loss:[number] profit_loss_pct:[number] base_value:number
        base_value_asof~:day timeframe:1Min|5Min|15Min|1H|1D cashflow:{[number]}
    """,
    "asset": f"""
        id:uuid class:{ASSET_CLASS} exchange:{LISTING_EXCHANGE} symbol:text name:text status:active|inactive
        tradable:boolean marginable:boolean margin_requirement_long:decimal margin_requirement_short:decimal
        shortable:boolean borrow_status:easy_to_borrow|hard_to_borrow fractionable:boolean attributes:[text]
    """,
    "calendar_day": """
        date:day open:hour close:hour session_open:short_hour session_close:short_hour settlement_date:day
    """,
    "market": "acronym:text mic:text name:text timezone:text",
    "market_clock": """
        market:market timestamp:instant is_market_day:boolean next_market_open:instant next_market_close:instant
        phase:closed|pre|core|post phase_until:instant
    """,
    "clocks": "clocks:[market_clock]",
    "market_day": """
        date:day core_start:instant core_end:instant pre_start:instant pre_end:instant post_start:instant
        post_end:instant settlement_date:day
    """,
    "market_calendar": "market:market calendar:[market_day]",
    "clock": "timestamp:instant is_open:boolean next_open:instant next_close:instant",
    "leg": f"{_ORDER_WITHOUT_LEGS} legs:no_rows?",
    "order": f"{_ORDER_WITHOUT_LEGS} legs:[leg]?",
    "cancelled_order": "id:uuid status:integer body:order",
    "refusal": """
        code:integer message:text symbol~:text available~:decimal existing_qty~:decimal held_for_orders~:decimal
        related_orders~:[uuid] existing_order_id~:uuid reject_reason~:text
    """,
    "closed_position": "symbol:text status:integer body:order/refusal",
    "position": f"""
        asset_id:uuid symbol:text exchange:{LISTING_EXCHANGE} asset_class:{ASSET_CLASS} asset_marginable:boolean
        qty:decimal qty_available:decimal side:long|short avg_entry_price:decimal market_value:decimal
        cost_basis:decimal unrealized_pl:decimal unrealized_plpc:decimal unrealized_intraday_pl:decimal
        unrealized_intraday_plpc:decimal current_price:decimal lastday_price:decimal change_today:decimal
    """,
    "watchlist_name": _WATCHLIST,
    "watchlist": f"{_WATCHLIST} assets:[asset]",
    "bar": "t:instant o:number h:number l:number c:number v:integer n:integer vw:number",
    "trade": "t:instant x:text p:number s:integer c:[text] i:integer z:A|B|C u~:text",
    "quote": "t:instant bx:text bp:number bs:integer ax:text ap:number as:integer c:[text] z:A|B|C",
    "snapshot": "latestTrade:trade latestQuote:quote minuteBar:bar dailyBar:bar prevDailyBar:bar",
    "symbol_snapshot": """
        symbol:text latestTrade:trade latestQuote:quote minuteBar:bar dailyBar:bar prevDailyBar:bar
    """,
    "auction": "t:instant x:text p:number c:text",
    "auction_day": "d:day o:[auction] c:[auction]",
    "image": "size:thumb|small|large url:text",
    "article": """
        id:integer headline:text author:text created_at:instant updated_at:instant summary:text content:text url:text?
        images:[image] symbols:[text] source:text
    """,
    "active_symbol": "symbol:text volume:integer trade_count:integer",
    "moved_symbol": "symbol:text percent_change:number change:number price:number",
    "corporate_actions": f"corporate_actions:empty {_PAGED}",
    "news_page": f"news:[article] {_PAGED}",
    "most_actives": "most_actives:[active_symbol] last_updated:instant",
    "movers": "gainers:[moved_symbol] losers:[moved_symbol] market_type:stocks| last_updated:instant",
    "auctions_of_symbols": f"auctions:{{[auction_day]}} {_PAGED}",
    "auctions_of_symbol": f"symbol:text auctions:[auction_day] {_PAGED}",
    "bars_of_symbols": f"bars:{{[bar]}} {_PAGED}",
    "bars_of_symbol": f"symbol:text bars:[bar] {_PAGED}",
    "trades_of_symbols": f"trades:{{[trade]}} {_PAGED}",
    "trades_of_symbol": f"symbol:text trades:[trade] {_PAGED}",
    "quotes_of_symbols": f"quotes:{{[quote]}} {_PAGED}",
    "quotes_of_symbol": f"symbol:text quotes:[quote] {_PAGED}",
    "latest_bars": "bars:{bar}",
    "latest_bar": "symbol:text bar:bar",
    "latest_trades": "trades:{trade}",
    "latest_trade": "symbol:text trade:trade",
    "latest_quotes": "quotes:{quote}",
    "latest_quote": "symbol:text quote:quote",
}
LEGACY_FIELDS: Mapping[str, str] = {
    "account": "pattern_day_trader:boolean daytrade_count:integer daytrading_buying_power:decimal",
    "configuration": "pdt_check:both|entry|exit dtbp_check:both|entry|exit",
    "asset": "easy_to_borrow:boolean maintenance_margin_requirement:number",
}

BODIES: Mapping[str, str] = {
    "configuration_change": """
        no_shorting:boolean suspend_trade:boolean fractional_trading:boolean max_margin_multiplier:1|2|4
        trade_confirm_email:text ptp_no_exception_entry:boolean disable_overnight_trading:boolean
    """,
    "take_profit": "limit_price:decimal",
    "stop_loss": "stop_price:decimal limit_price:decimal",
    "new_order": f"""
        symbol:text qty:decimal notional:decimal side:buy|sell type!:{ORDER_TYPE} time_in_force!:{TIME_IN_FORCE}
        limit_price:decimal stop_price:decimal trail_price:decimal trail_percent:decimal extended_hours:boolean
        client_order_id:text order_class:{ORDER_CLASS} position_intent:{INTENT} take_profit:take_profit
        stop_loss:stop_loss
    """,
    "order_change": f"""
        qty:decimal time_in_force:{TIME_IN_FORCE} limit_price:decimal stop_price:decimal trail:decimal
        client_order_id:text
    """,
    "new_watchlist": "name!:text symbols:[text]",
    "watchlist_symbol": "symbol:text",
}

_ACTIVITIES = "date:instant until:instant after:instant direction:asc|desc page_size:1..100 page_token:text"
_HISTORY = """
    start:instant end:instant limit:1..10000 asof:text feed:iex|sip|otc|boats currency:text page_token:text
    sort:asc|desc
"""
_AUCTIONS = _HISTORY.replace("iex|sip|otc|boats", "sip|")
_BARS = f"timeframe!:text adjustment:text {_HISTORY}"
_LATEST = "feed:iex|sip|otc|boats|delayed_sip|overnight currency:text"
_SYMBOLS = "symbols!:text"

# Operation: its answer (status and type), its parameters, its body.
OPERATIONS: Mapping[str, tuple[str, str, str]] = {
    "GET /v2/account": ("200 account", "", ""),
    "GET /v2/account/activities": (
        "200 [fill/transfer/fee]",
        f"activity_types:[{ACTIVITY_TYPES}] category:trade_activity|non_trade_activity {_ACTIVITIES}",
        "",
    ),
    "GET /v2/account/activities/{activity_type}": ("200 [fill/transfer/fee]", _ACTIVITIES, ""),
    "GET /v2/account/configurations": ("200 configuration", "", ""),
    "PATCH /v2/account/configurations": ("200 configuration", "", "configuration_change"),
    "GET /v2/account/portfolio/history": (
        "200 history",
        """period:text timeframe:text intraday_reporting:market_hours|extended_hours|continuous start:instant
        end:instant pnl_reset:no_reset|per_day extended_hours:text cashflow_types:text""",
        "",
    ),
    "GET /v2/assets": ("200 [asset]", "status:text asset_class:text exchange:text", ""),
    "GET /v2/assets/{symbol_or_asset_id}": ("200 asset", "", ""),
    "GET /v2/calendar": ("200 [calendar_day]", "start:instant end:instant date_type:TRADING|SETTLEMENT", ""),
    "GET /v2/clock": ("200 clock", "", ""),
    "GET /v2/corporate_actions/announcements": (
        "200 no_rows",
        """ca_types!:text since!:day until!:day symbol:text cusip:text
        date_type:declaration_date|ex_date|record_date|payable_date""",
        "",
    ),
    "GET /v3/calendar/{market}": ("200 market_calendar", "start:day end:day timezone:UTC|", ""),
    "GET /v3/clock": ("200 clocks", "markets:text time:instant", ""),
    "GET /v2/orders": (
        "200 [order]",
        """status:open|closed|all limit:integer after:text until:text direction:asc|desc nested:boolean
        symbols:text side:text before_order_id:text after_order_id:text""",
        "",
    ),
    "POST /v2/orders": ("200 order", "", "new_order"),
    "DELETE /v2/orders": ("207 [cancelled_order]", "", ""),
    "GET /v2/orders/{order_id}": ("200 order", "nested:boolean", ""),
    "PATCH /v2/orders/{order_id}": ("200 order", "", "order_change"),
    "DELETE /v2/orders/{order_id}": ("204", "", ""),
    "GET /v2/orders:by_client_order_id": ("200 order", "client_order_id!:text", ""),
    "GET /v2/positions": ("200 [position]", "", ""),
    "DELETE /v2/positions": ("207 [closed_position]", "cancel_orders:boolean", ""),
    "GET /v2/positions/{symbol_or_asset_id}": ("200 position", "", ""),
    "DELETE /v2/positions/{symbol_or_asset_id}": ("200 order", "qty:number percentage:number", ""),
    "GET /v2/watchlists": ("200 [watchlist_name]", "", ""),
    "POST /v2/watchlists": ("200 watchlist", "", "new_watchlist"),
    "GET /v2/watchlists/{watchlist_id}": ("200 watchlist", "", ""),
    "PUT /v2/watchlists/{watchlist_id}": ("200 watchlist", "", "new_watchlist"),
    "POST /v2/watchlists/{watchlist_id}": ("200 watchlist", "", "watchlist_symbol"),
    "DELETE /v2/watchlists/{watchlist_id}": ("204", "", ""),
    "DELETE /v2/watchlists/{watchlist_id}/{symbol}": ("200 watchlist", "", ""),
    "GET /v2/watchlists:by_name": ("200 watchlist", "name!:text", ""),
    "PUT /v2/watchlists:by_name": ("200 watchlist", "name!:text", "new_watchlist"),
    "POST /v2/watchlists:by_name": ("200 watchlist", "name!:text", "watchlist_symbol"),
    "DELETE /v2/watchlists:by_name": ("204", "name!:text", ""),
    "GET /v1/corporate-actions": (
        "200 corporate_actions",
        """symbols:text cusips:text types:text region:us|non_us|all start:day end:day ids:text limit:1..1000
        page_token:text sort:asc|desc""",
        "",
    ),
    "GET /v1beta1/news": (
        "200 news_page",
        """start:instant end:instant sort:asc|desc symbols:text limit:1..50 include_content:boolean
        exclude_contentless:boolean page_token:text""",
        "",
    ),
    "GET /v1beta1/screener/stocks/most-actives": ("200 most_actives", "by:volume|trades top:1..100", ""),
    "GET /v1beta1/screener/{market_type}/movers": ("200 movers", "top:1..50", ""),
    "GET /v2/stocks/auctions": ("200 auctions_of_symbols", f"{_SYMBOLS} {_AUCTIONS}", ""),
    "GET /v2/stocks/bars": ("200 bars_of_symbols", f"{_SYMBOLS} {_BARS}", ""),
    "GET /v2/stocks/bars/latest": ("200 latest_bars", f"{_SYMBOLS} {_LATEST}", ""),
    "GET /v2/stocks/meta/conditions/{ticktype}": ("200 {text}", "tape!:A|B|C", ""),
    "GET /v2/stocks/meta/exchanges": ("200 {text}", "", ""),
    "GET /v2/stocks/quotes": ("200 quotes_of_symbols", f"{_SYMBOLS} {_HISTORY}", ""),
    "GET /v2/stocks/quotes/latest": ("200 latest_quotes", f"{_SYMBOLS} {_LATEST}", ""),
    "GET /v2/stocks/snapshots": ("200 {snapshot}", f"{_SYMBOLS} {_LATEST}", ""),
    "GET /v2/stocks/trades": ("200 trades_of_symbols", f"{_SYMBOLS} {_HISTORY}", ""),
    "GET /v2/stocks/trades/latest": ("200 latest_trades", f"{_SYMBOLS} {_LATEST}", ""),
    "GET /v2/stocks/{symbol}/auctions": ("200 auctions_of_symbol", _AUCTIONS, ""),
    "GET /v2/stocks/{symbol}/bars": ("200 bars_of_symbol", _BARS, ""),
    "GET /v2/stocks/{symbol}/bars/latest": ("200 latest_bar", _LATEST, ""),
    "GET /v2/stocks/{symbol}/quotes": ("200 quotes_of_symbol", _HISTORY, ""),
    "GET /v2/stocks/{symbol}/quotes/latest": ("200 latest_quote", _LATEST, ""),
    "GET /v2/stocks/{symbol}/snapshot": ("200 symbol_snapshot", _LATEST, ""),
    "GET /v2/stocks/{symbol}/trades": ("200 trades_of_symbol", _HISTORY, ""),
    "GET /v2/stocks/{symbol}/trades/latest": ("200 latest_trade", _LATEST, ""),
}
PATH_PARAMETERS = {
    "order_id": "uuid",
    "watchlist_id": "uuid",
    "ticktype": "trade|quote",
    "market_type": "stocks|crypto",
    "market": "IEX|IEXG|NASDAQ|NYSE|OTC|OTCM|XNAS|XNYS",
}


def is_data_operation(label: str) -> bool:
    """Return whether an operation belongs to the market data API."""
    return label.split(" ")[1].startswith(("/v1", "/v2/stocks"))


def own_document(*, data: bool, with_legacy_fields: bool) -> dict[str, Any]:
    """Return the document of the market data API or of the trading API."""
    paths: dict[str, Any] = {}
    for label, (answer, parameters, body) in OPERATIONS.items():
        if is_data_operation(label) == data:
            method, path = label.split(" ")
            paths.setdefault(path, {})[method.lower()] = _operation(path, answer, parameters, body)
    rows = {
        name: _row_schema(f"{fields} {LEGACY_FIELDS.get(name, '') if with_legacy_fields else ''}")
        for name, fields in ROWS.items()
    }
    return {
        "openapi": "3.0.3",
        "info": {"title": "facts", "version": "1"},
        "paths": paths,
        "components": {"schemas": rows | {name: _body_schema(fields) for name, fields in BODIES.items()}},
    }


def _operation(path: str, answer: str, parameters: str, body: str) -> dict[str, Any]:
    status, _, kind = answer.partition(" ")
    response: dict[str, Any] = {"description": ""}
    if kind:
        response["content"] = {"application/json": {"schema": schema_of(kind)}}
    operation: dict[str, Any] = {"responses": {status: response}}
    listed = [
        {
            "in": "path",
            "name": name,
            "required": True,
            "schema": _request_schema(PATH_PARAMETERS.get(name, "text")),
        }
        for name in re.findall(r"{(\w+)}", path)
    ]
    for name, mark, kind in _fields(parameters):
        listed.append({"in": "query", "name": name, "schema": _request_schema(kind)})
        if mark == "!":
            listed[-1]["required"] = True
        if kind.startswith("["):
            listed[-1]["explode"] = False
    if listed:
        operation["parameters"] = listed
    if body:
        content = {"application/json": {"schema": schema_of(body)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _fields(text: str) -> list[tuple[str, str, str]]:
    """Return name, mark (`~`, `!` or empty) and type of each field."""
    found = [re.fullmatch(r"(\w+)([~!]?):(.+)", field) for field in text.split()]
    assert all(found), text
    return [(each[1], each[2], each[3]) for each in found if each]


def field_names(text: str) -> list[str]:
    """Return the names of the fields of one row or body."""
    return [name for name, _, _ in _fields(text)]


def schema_of(kind: str) -> Schema:
    """Return the schema of a type in the notation of this module."""
    if kind.endswith("?"):
        return {**schema_of(kind[:-1]), "nullable": True}
    if kind.startswith("["):
        return {"type": "array", "items": schema_of(kind[1:-1])}
    if kind.startswith("{"):
        return {"type": "object", "additionalProperties": schema_of(kind[1:-1])}
    if "|" in kind:
        empty = [""] if kind.startswith("|") else []
        return {"type": "string", "enum": empty + [value for value in kind.split("|") if value]}
    if "/" in kind:
        return {"oneOf": [schema_of(each) for each in kind.split("/")]}
    if bounds := re.fullmatch(r"(\d+)\.\.(\d+)", kind):
        return {"type": "integer", "minimum": int(bounds[1]), "maximum": int(bounds[2])}
    if kind in SIMPLE_TYPES:
        return dict(SIMPLE_TYPES[kind])
    assert kind in ROWS or kind in BODIES, kind
    return {"$ref": f"#/components/schemas/{kind}"}


def _request_schema(kind: str) -> Schema:
    """Return the schema of a request's value: a text that the exchange must refuse is drawn too."""
    schema = schema_of(kind)
    schema.pop("pattern", None)
    return schema


def _row_schema(text: str) -> Schema:
    fields = _fields(text)
    return {
        "type": "object",
        "properties": {name: schema_of(kind) for name, _, kind in fields},
        "required": [name for name, mark, _ in fields if mark != "~"],
        "additionalProperties": False,
    }


def _body_schema(text: str) -> Schema:
    fields = _fields(text)
    schema: Schema = {
        "type": "object",
        "properties": {name: _request_schema(kind) for name, _, kind in fields},
        "additionalProperties": False,
    }
    required = [name for name, mark, _ in fields if mark == "!"]
    return schema | ({"required": required} if required else {})
