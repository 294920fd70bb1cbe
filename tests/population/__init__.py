"""A large log that looks like a service's of three months: runs of every protocol and every way to fail, by a seed.

Turns are planned (plan), each told in the words of its protocol (assistants, responses, chat, anthropic) and made into the rows
of streams (making), which are appended through recorder's log. What was planted is counted without any fold.
"""
