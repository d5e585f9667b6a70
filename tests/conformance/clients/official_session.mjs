// Calls of the official TypeScript SDK: `node --input-type=module - 127.0.0.1:PORT`; prints each call with its error.
import { Alpaca } from "@alpacahq/alpaca-trade-api";

const local = process.argv[2];
const alpaca = new Alpaca({
  keyId: "demo",
  secret: "demo",
  fetchApi: (url, init) => fetch(String(url).replace(/^https:\/\/[^/]+/, `http://${local}`), init),
});
const { trading: t, marketData: m } = alpaca;
const now = new Date((await t.clock.legacyClock()).timestamp);
const start = new Date(now - 3_600_000);
const one = { symbol: "AAPL" };
const several = { symbols: "AAPL,MSFT" };
const range = { start, end: now, limit: 5 };
const bars = { timeframe: "5Min", ...range };
const day = now.toISOString().slice(0, 10);
let order, list;

const calls = {
  account: () => t.account.getAccount(),
  configuration: () => t.accountConfigurations.getAccountConfig(),
  activities: () => t.accountActivities.getAccountActivities({}),
  history: () => t.portfolioHistory.getAccountPortfolioHistory({ period: "1D", timeframe: "5Min" }),
  clock: () => t.clock.clock({ markets: "NYSE" }),
  calendar: () => t.calendar.calendar({ market: "NYSE" }),
  legacyCalendar: () => t.calendar.legacyCalendar({ start: now, end: now }),
  assets: () => t.assets.getV2Assets({ status: "active" }),
  asset: () => t.assets.getV2AssetsSymbolOrAssetId({ symbolOrAssetId: "AAPL" }),
  announcements: () =>
    t.corporateActions.getV2CorporateActionsAnnouncements({ caTypes: "Dividend", since: day, until: day }),
  order: async () => (order = await t.orders.limit({ ...one, qty: 1, side: "buy", limitPrice: 1, timeInForce: "day" })),
  orders: () => t.orders.getAllOrders({ status: "all" }),
  orderById: () => t.orders.getOrderByOrderID({ orderId: order.id }),
  orderByClientId: () => t.orders.getOrderByClientOrderId({ clientOrderId: order.clientOrderId }),
  cancel: () => t.orders.deleteOrderByOrderID({ orderId: order.id }),
  cancelAll: () => t.orders.deleteAllOrders(),
  positions: () => t.positions.getAllOpenPositions(),
  closeAll: () => t.positions.deleteAllOpenPositions({ cancelOrders: true }),
  watchlist: async () =>
    (list = await t.watchlists.postWatchlist({ createWatchlistRequest: { name: "official", symbols: ["AAPL"] } })),
  watchlists: () => t.watchlists.getWatchlists(),
  deleteWatchlist: () => t.watchlists.deleteWatchlistById({ watchlistId: list.id }),
  bars: () => m.stocks.stockBars({ ...several, ...bars }),
  barsOfOne: () => m.stocks.stockBarSingle({ ...one, ...bars }),
  trades: () => m.stocks.stockTrades({ ...several, ...range }),
  quotes: () => m.stocks.stockQuotes({ ...several, ...range }),
  auctions: () => m.stocks.stockAuctions({ ...several, ...range }),
  latestBars: () => m.stocks.stockLatestBars(several),
  latestTrades: () => m.stocks.stockLatestTrades(several),
  latestQuotes: () => m.stocks.stockLatestQuotes(several),
  snapshots: () => m.stocks.stockSnapshots(several),
  snapshot: () => m.stocks.stockSnapshotSingle(one),
  exchanges: () => m.stocks.stockMetaExchanges(),
  news: () => m.news.news({ symbols: "AAPL", limit: 5 }),
  mostActives: () => m.screener.mostActives({ by: "volume", top: 5 }),
  movers: () => m.screener.movers({ marketType: "stocks", top: 5 }),
  corporateActions: () => m.corporateActions.corporateActions({ symbols: "AAPL" }),
  locates: () => t.locates.listLocates({}),
  optionContracts: () => t.assets.getOptionsContracts({ underlyingSymbols: "AAPL" }),
  cryptoBars: () => m.crypto.cryptoBars({ loc: "us", symbols: "BTC/USD", timeframe: "1Day" }),
};
for (const [name, call] of Object.entries(calls)) {
  let problem = "";
  try {
    await call();
  } catch (error) {
    problem = String(error.message ?? error);
  }
  console.log(JSON.stringify([name, problem]));
}
process.exit(0); // the SDK keeps a timer
