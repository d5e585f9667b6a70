"""Views: JSON of the exchange's state, in Alpaca's field names and text numbers."""

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal

from catalyst.clock import NEW_YORK
from catalyst.simulator.exchange.account import Account, Marks, mark_price_of
from catalyst.simulator.exchange.order_store import OrderStore
from catalyst.simulator.exchange.positions import Position
from catalyst.simulator.exchange.settings import ExchangeSettings
from catalyst.simulator.market.interface import Asset, MarketSession
from catalyst.simulator.rules.orders import Execution, Order, OrderClass
from catalyst.simulator.rules.pricing import is_stop
from catalyst.simulator.rules.wire_format import (
    JsonObject,
    format_decimal,
    format_instant,
    format_optional_decimal,
    format_optional_instant,
)


def _shown_status(order: Order, settings: ExchangeSettings) -> str:
    is_live_stop = is_stop(order) and order.active and not order.terminal
    return settings.shown_stop_status if settings.shown_stop_status and is_live_stop else order.status.value


def order_view(
    order: Order,
    order_store: OrderStore,
    settings: ExchangeSettings,
    *,
    nested: bool,
    stream: bool = False,
    visible_state: Callable[[Order], Order] | None = None,
) -> JsonObject:
    """Return an order as `visible_state` shows it, else as it is; with its legs when `nested`, which have no
    legs themselves."""
    current_legs = order_store.legs(order) if nested else []
    order = visible_state(order) if visible_state else order
    legs = [
        order_view(leg, order_store, settings, nested=False, stream=stream, visible_state=visible_state)
        for leg in current_legs
    ]
    local = stream and settings.local_offsets
    simple = order.order_class is OrderClass.SIMPLE
    return {
        "id": order.id,
        "client_order_id": order.client_order_id,
        "created_at": format_optional_instant(order.created_at, local=local),
        "updated_at": format_optional_instant(order.updated_at),
        "submitted_at": format_optional_instant(order.submitted_at, local=local),
        "filled_at": format_optional_instant(order.filled_at),
        "expired_at": format_optional_instant(order.expired_at),
        "canceled_at": format_optional_instant(order.canceled_at),
        "failed_at": format_optional_instant(order.failed_at),
        "replaced_at": format_optional_instant(order.replaced_at),
        "cancel_requested_at": format_optional_instant(order.cancel_requested_at),
        "expires_at": format_optional_instant(order.expires_at),
        "replaced_by": order.replaced_by,
        "replaces": order.replaces,
        "asset_id": order.asset_id,
        "symbol": order.symbol,
        "asset_class": "us_equity",
        "notional": format_optional_decimal(order.notional),
        "qty": None if order.notional is not None else format_optional_decimal(order.qty),
        "filled_qty": format_decimal(order.filled_qty),
        "filled_avg_price": format_optional_decimal(order.average_fill_price),
        "order_class": settings.simple_class if simple else order.order_class.value,
        "order_type": order.type.value,
        "type": order.type.value,
        "side": order.side.value,
        "position_intent": order.intent.value,
        "time_in_force": order.time_in_force.value,
        "limit_price": format_optional_decimal(order.limit_price),
        "stop_price": format_optional_decimal(order.stop_price),
        "status": _shown_status(order, settings),
        "extended_hours": order.extended_hours,
        "legs": legs or None,
        "trail_percent": format_optional_decimal(order.trail_percent),
        "trail_price": format_optional_decimal(order.trail_price),
        "hwm": format_optional_decimal(order.hwm),
        "subtag": None,
        "source": None,
    }


def account_view(account: Account, marks: Marks, reserved: Decimal, settings: ExchangeSettings) -> JsonObject:
    """Return the account as of now."""
    long, short = account.market_value(marks)
    equity = account.cash + long + short
    initial, maintenance = account.margin_requirements(marks)
    power = account.buying_power(marks, reserved)
    cents = Decimal("0.01")
    view: JsonObject = {
        "id": account.id,
        "account_number": account.number,
        "status": account.status,
        "crypto_status": "ACTIVE",
        "currency": "USD",
        "buying_power": format_decimal(power.quantize(cents)),
        "regt_buying_power": format_decimal(
            max((equity - initial) * 2 - reserved, Decimal(0)).quantize(cents)
        ),
        "non_marginable_buying_power": format_decimal(
            max(account.cash - reserved, Decimal(0)).quantize(cents)
        ),
        "options_buying_power": format_decimal(max(account.cash - reserved, Decimal(0)).quantize(cents)),
        "cash": format_decimal(account.cash),
        "accrued_fees": format_decimal(account.accrued_fees),
        "pending_transfer_in": "0",
        "pending_transfer_out": "0",
        "portfolio_value": format_decimal(equity),
        "trading_blocked": account.trading_blocked,
        "transfers_blocked": False,
        "account_blocked": account.account_blocked,
        "trade_suspended_by_user": account.configuration.suspend_trade,
        "created_at": format_optional_instant(account.created_at),
        "multiplier": str(account.leverage(equity)),
        "shorting_enabled": account.multiplier > 1 and not account.configuration.no_shorting,
        "equity": format_decimal(equity),
        "last_equity": format_decimal(account.last_equity),
        "long_market_value": format_decimal(long),
        "short_market_value": format_decimal(short),
        "position_market_value": format_decimal(long - short),
        "initial_margin": format_decimal(initial),
        "maintenance_margin": format_decimal(maintenance),
        "last_maintenance_margin": format_decimal(account.last_maintenance),
        "sma": "0",
        "intraday_adjustments": "0",
        "balance_asof": account.created_at.astimezone(NEW_YORK).date().isoformat(),
    }
    if settings.legacy_fields:
        view["pattern_day_trader"] = False
        view["daytrade_count"] = 0
        view["daytrading_buying_power"] = view["buying_power"]
    return view


def configuration_view(account: Account, settings: ExchangeSettings) -> JsonObject:
    """Return the account's configuration page."""
    configuration = account.configuration
    view: JsonObject = {
        "no_shorting": configuration.no_shorting,
        "suspend_trade": configuration.suspend_trade,
        "fractional_trading": configuration.fractional_trading,
        "max_margin_multiplier": configuration.max_margin_multiplier,
        "trade_confirm_email": configuration.trade_confirm_email,
        "ptp_no_exception_entry": configuration.ptp_no_exception_entry,
        "disable_overnight_trading": configuration.disable_overnight_trading,
        "max_options_trading_level": 0,
    }
    if settings.legacy_fields:
        view["pdt_check"] = view["dtbp_check"] = "entry"
    return view


def position_view(
    position: Position, asset: Asset, marks: Marks, yesterday: Decimal | None, held: Decimal
) -> JsonObject:
    """Return a position; `yesterday` is the previous session's last price, `held` what open exits reserve."""
    price = mark_price_of(position, marks)
    last = price if yesterday is None else yesterday
    value = position.qty * price
    profit = value - position.cost
    today = position.qty - position.overnight_qty
    day_cost = position.overnight_qty * last + today * position.average_cost
    return {
        "asset_id": asset.id,
        "symbol": position.symbol,
        "exchange": asset.exchange,
        "asset_class": "us_equity",
        "asset_marginable": asset.marginable,
        "qty": format_decimal(position.qty),
        "qty_available": format_decimal(max(abs(position.qty) - held, Decimal(0)).copy_sign(position.qty)),
        "side": "long" if position.qty > 0 else "short",
        "avg_entry_price": format_decimal(position.average_cost.quantize(Decimal("0.0000000001"))),
        "market_value": format_decimal(value),
        "cost_basis": format_decimal(position.cost),
        "unrealized_pl": format_decimal(profit),
        "unrealized_plpc": format_ratio(profit, position.cost),
        "unrealized_intraday_pl": format_decimal((value - day_cost).quantize(Decimal("0.0000000001"))),
        "unrealized_intraday_plpc": format_ratio(value - day_cost, day_cost),
        "current_price": format_decimal(price),
        "lastday_price": format_decimal(last),
        "change_today": format_ratio(price - last, last),
    }


def format_ratio(part: Decimal, whole: Decimal) -> str:
    """Return part / |whole| to sixteen places."""
    return "0" if not whole else format_decimal((part / abs(whole)).quantize(Decimal("0.0000000000000001")))


def asset_view(asset: Asset, settings: ExchangeSettings) -> JsonObject:
    """Return a listing, with `borrow_status` instead of the removed `easy_to_borrow`."""
    easy = asset.easy_to_borrow and asset.symbol not in settings.hard_to_borrow
    view: JsonObject = {
        "id": asset.id,
        "class": "us_equity",
        "exchange": asset.exchange,
        "symbol": asset.symbol,
        "name": asset.name,
        "status": asset.status,
        "tradable": asset.tradable,
        "marginable": asset.marginable,
        "margin_requirement_long": "30",
        "margin_requirement_short": "30",
        "shortable": asset.shortable,
        "borrow_status": "easy_to_borrow" if easy else "hard_to_borrow",
        "fractionable": asset.fractionable,
        "attributes": [],
    }
    if settings.legacy_fields:
        view["easy_to_borrow"] = easy
        view["maintenance_margin_requirement"] = 30
    return view


def fill_activity_view(execution: Execution) -> JsonObject:
    """Return a FILL activity."""
    return {
        "id": activity_id(execution.at, execution.id),
        "activity_type": "FILL",
        "transaction_time": format_instant(execution.at),
        "type": "fill" if not execution.leaves_qty else "partial_fill",
        "price": format_decimal(execution.price),
        "qty": format_decimal(execution.qty),
        "side": execution.side.value,
        "symbol": execution.symbol,
        "leaves_qty": format_decimal(execution.leaves_qty),
        "order_id": execution.order_id,
        "cum_qty": format_decimal(execution.cum_qty),
        "order_status": execution.order_status.value,
    }


def cash_activity_view(kind: str, at: datetime, identity: str, amount: Decimal, **more: str) -> JsonObject:
    """Return a non-trade activity: a deposit (CSD), a withdrawal (CSW) or a fee (FEE)."""
    return {
        "id": activity_id(at, identity),
        "activity_type": kind,
        "date": at.astimezone(NEW_YORK).date().isoformat(),
        "created_at": format_instant(at),
        "net_amount": format_decimal(amount),
        "currency": "USD",
        "status": "executed",
        **more,
    }


def activity_id(at: datetime, identity: str) -> str:
    """Return an id that sorts by New York time to the millisecond, then by the given id."""
    return f"{at.astimezone(NEW_YORK):%Y%m%d%H%M%S%f}"[:17] + f"::{identity}"


def calendar_view(
    session: MarketSession, settlement: MarketSession | None, settings: ExchangeSettings
) -> JsonObject:
    """Return a session day in New York's local time, without a zone."""
    day = session.day.isoformat()
    early = session.close.astimezone(NEW_YORK).hour < 16
    return {
        "date": day,
        "open": f"{session.open.astimezone(NEW_YORK):%H:%M}",
        "close": f"{session.close.astimezone(NEW_YORK):%H:%M}",
        "session_open": "0400",
        "session_close": settings.half_day_post_close if early else "2000",
        "settlement_date": settlement.day.isoformat() if settlement else day,
    }
