"""Know, clean, balance and judge data: every pass writes verdicts beside them and leaves them as they are."""
