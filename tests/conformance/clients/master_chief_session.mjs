// Calls of @master-chief/alpaca: `node --input-type=module - 127.0.0.1:PORT`; prints each call with its error.
import { AlpacaClient } from "@master-chief/alpaca";

const local = process.argv[2];
const client = new AlpacaClient({
  credentials: { key: "demo", secret: "demo", paper: false },
  endpoints: {
    rest: { beta: `http://${local}/v1beta1`, account: `http://${local}/v2`, market_data_v2: `http://${local}/v2` },
    websocket: { account: `ws://${local}/stream`, market_data: (source) => `ws://${local}/v2/${source}` },
  },
});
const { timestamp } = (await client.getClock()).raw();
const now = new Date(timestamp);
const range = { symbol: "AAPL", start: new Date(now - 3_600_000), end: now, limit: 5 };
const resting = { symbol: "AAPL", qty: 1, side: "buy", type: "limit", limit_price: 1, time_in_force: "day" };
let order, list;

const calls = {
  account: () => client.getAccount(),
  configuration: () => client.getAccountConfigurations(),
  activities: () => client.getAccountActivities({ activity_type: "FILL" }),
  history: () => client.getPortfolioHistory({ period: "1D", timeframe: "5Min" }),
  calendar: () => client.getCalendar({ start: now, end: now }),
  assets: () => client.getAssets({ status: "active" }),
  asset: () => client.getAsset({ asset_id_or_symbol: "AAPL" }),
  order: async () => (order = await client.placeOrder(resting)),
  orders: () => client.getOrders({ status: "all" }),
  orderById: () => client.getOrder({ order_id: order.id }),
  cancel: () => client.cancelOrder({ order_id: order.id }),
  cancelAll: () => client.cancelOrders(),
  positions: () => client.getPositions(),
  watchlist: async () => (list = await client.createWatchlist({ name: "chief", symbols: ["AAPL"] })),
  addToWatchlist: () => client.addToWatchlist({ uuid: list.id, symbol: "MSFT" }),
  bars: () => client.getBars({ ...range, timeframe: "5Min" }),
  trades: () => client.getTrades(range),
  quotes: () => client.getQuotes(range),
  latestTrade: () => client.getLatestTrade({ symbol: "AAPL" }),
  snapshot: () => client.getSnapshot({ symbol: "AAPL" }),
  snapshots: () => client.getSnapshots({ symbols: ["AAPL", "MSFT"] }),
  news: () => client.getNews({ symbols: ["AAPL"] }),
  closeAll: () => client.closePositions({ cancel_orders: true }),
};
for (const [name, call] of Object.entries(calls)) {
  let problem = "";
  try {
    await call();
  } catch (error) {
    problem = String(error.message ?? JSON.stringify(error));
  }
  console.log(JSON.stringify([name, problem]));
}
