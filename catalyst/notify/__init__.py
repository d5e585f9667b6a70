"""Delivery of alerts to people: mail and messengers. Knows nothing of trading."""
