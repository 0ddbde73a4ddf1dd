"""Where units come from: pools of engines, admission, warm workers."""
