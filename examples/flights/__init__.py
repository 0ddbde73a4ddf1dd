"""All flights that left New York in 2013: will this one arrive more than half an hour late?"""
